"""Every run-time method in every model family, against weights merged by hand at every step.

The gates of a method come from the method; what is made of them (rows, layers, views, steps,
strengths, schedule) is computed here a second time, with dense matrices and one model call at a
time.
"""

from __future__ import annotations

import functools
import itertools

import comfy.sample
import comfy.samplers
import folder_paths
import oracle
import pair_parts
import pytest
import safetensors.torch
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.hooks import GatedChunks, LayerHook, ModelCall
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, Factors, Moment
from oracle import distance
from three_loras import FAMILIES, ROLES, STRENGTHS, Case, case
from two_loras import NEGATIVE, POSITIVE

TOLERANCE = 5e-5
STEPS = 3
METHODS = FUSION.keys()
SETTINGS = {"switch": {"every": 1}}  # other knobs as they come
MU = {"np_lora": lambda progress: 0.5}  # its default
PROMPT = "<c>a cat</c> in <s>ink</s>"


def cosine(progress: float) -> tuple[float, float]:
    early = (1 - torch.cos(torch.tensor(torch.pi * (1 - progress), dtype=torch.float64)).item()) / 2
    return early, 1 - early


SCHEDULES = {
    "none": (None, lambda progress: (1.0, 1.0)),
    "cosine": (Schedule("cosine"), cosine),
}


class MergedByHand(oracle.TwoModels):
    """At each call the second model's weights become W + sum of gate * strength * schedule * dW,
    once for every view, and the views' predictions are averaged. With asymmetric guidance the
    unconditional prediction is the untouched model's."""

    def __init__(self, made: Case, branches, table, views, asymmetric, mu=None):
        """branches: indices of the case's files. table: (progress, steps) -> (views, layers,
        branches) over all of the model's layers. projects: whether content yields to style."""
        deltas = [made.deltas[j] for j in branches]
        super().__init__(made.model, made.family.make(), deltas, None)
        self.table, self.views, self.asymmetric = table, views, asymmetric
        self.rows = {path: i for i, path in enumerate(made.layers)}
        self.mu, self.whole, self.roles = mu, deltas, [ROLES[j] for j in branches]

    def merge(self, gates) -> None:
        """gates: (layers, branches) of one view."""
        for path, module in self.layers.items():
            weight = self.weights[path].clone()
            for gate, delta in zip(gates[self.rows[path]].tolist(), self.deltas, strict=True):
                if path in delta:
                    weight += gate * delta[path].to(weight.device)
            module.weight.data.copy_(weight)

    def predict_noise(self, x, timestep, model_options, seed=None):
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        progress = oracle.step_position(float(timestep[0]), sigmas)
        table = self.table(progress, len(sigmas) - 1)
        if self.mu is not None:
            self.deltas = null_space(self.whole, self.roles, self.mu(progress))
        positive, negative = self.conds["positive"], self.conds["negative"]
        predictions = []
        for view in range(self.views):
            self.merge(table[view])
            for conds in (positive, negative):
                (found,) = comfy.samplers.calc_cond_batch(
                    self.twin.model, [conds], x, timestep, model_options
                )
                predictions.append(found)
        cond = sum(predictions[::2]) / self.views
        uncond = sum(predictions[1::2]) / self.views
        if self.asymmetric:
            (uncond,) = comfy.samplers.calc_cond_batch(
                self.inner_model, [negative], x, timestep, model_options
            )
        return comfy.samplers.cfg_function(
            self.inner_model, cond, uncond, self.cfg, x, timestep,
            model_options=model_options, cond=positive, uncond=negative,
        )  # fmt: skip


def null_space(deltas, roles, mu):
    """NP-LoRA on whole matrices: each content loses mu / (1 + mu) of what it does on the inputs
    that the sum of the styles reads."""
    out = []
    for own, role in zip(deltas, roles, strict=True):
        made = dict(own)
        for path in own if role == "content" else ():
            styles = [d[path] for d, r in zip(deltas, roles, strict=True)
                      if r == "style" and path in d]  # fmt: skip
            if styles:
                flat = own[path].double().flatten(1)
                _, values, rights = torch.linalg.svd(
                    sum(styles).double().flatten(1), full_matrices=False
                )
                rights = rights[values > 1e-5 * values[0]]
                flat = flat - mu / (1 + mu) * flat @ rights.T @ rights
                made[path] = flat.float().reshape(own[path].shape)
        out.append(made)
    return out


def method_gates(made, method, bank, order, **settings):
    knobs = FUSION[method].knobs({**SETTINGS.get(method, {}), **settings})
    return FUSION[method].function(bank, made.routing(bank, order), **knobs)


def reference(made, method, schedule, asymmetric, order=(0, 1, 2), cfg=4.0):
    """The guider of the merged models. A method's gates, on all layers of the model."""
    bank = made.bank((1.0,) * 3, order)
    gates = method_gates(made, method, bank, order)
    at = SCHEDULES[schedule][1]
    paths = list(made.layers)
    rows = [paths.index(path) for path in bank.layers]

    def table(progress: float, steps: int) -> torch.Tensor:
        found = torch.zeros(gates.views, len(paths), len(order))
        found[:, rows] = gates.at(Moment(progress, steps))
        content, style = at(progress)
        for j, index in enumerate(order):
            found[..., j] *= STRENGTHS[index] * (content if ROLES[index] == "content" else style)
        return found

    guider = MergedByHand(made, order, table, gates.views, asymmetric, MU.get(method))
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_cfg(cfg)
    return guider


def attached(made, method, schedule="none", order=(0, 1, 2), model=None):
    """MODEL, by default the case's, with the method's gates on it, as the Router attaches them."""
    bank = made.bank(order=order)
    gates = compose(method_gates(made, method, bank, order), bank, SCHEDULES[schedule][0])
    return engine.attach(model or made.model, gates.bank or bank, gates)


def sample(made, guider, batch=1):
    return oracle.sample(guider, made.latent(batch), scheduler="simple", steps=STEPS)


def ours(made, model, asymmetric, cfg=4.0, batch=1):
    return sample(made, acfg_guider(model, POSITIVE, NEGATIVE, cfg, asymmetric), batch)


@functools.cache
def plain(name: str, batch: int = 1):
    made = case(name)
    return sample(made, oracle.guider(made.model, POSITIVE, NEGATIVE), batch)


SETTINGS_OF = {  # (asymmetric, schedule): all of them in one family, some in the others
    "sd15": [(True, "cosine")],
    "sdxl": [(False, "none")],
    "flux": list(itertools.product((False, True), SCHEDULES)),
    "z_image": [(True, "cosine"), (False, "none")],
    "qwen_image": [(True, "none"), (False, "cosine")],
}


def combinations():
    for family, settings in SETTINGS_OF.items():
        for method, (asymmetric, schedule) in itertools.product(METHODS, settings):
            name = f"{family}-{method}-{'acfg' if asymmetric else 'cfg'}-{schedule}"
            yield pytest.param(family, method, asymmetric, schedule, id=name)


@pytest.mark.parametrize(("family", "method", "asymmetric", "schedule"), [*combinations()])
def test_a_method_is_its_gates_times_the_matrices_added_to_the_weights(
    family, method, asymmetric, schedule
):
    made = case(family)
    found = ours(made, attached(made, method, schedule, order=(0, 2)), asymmetric, batch=2)
    by_hand = reference(made, method, schedule, asymmetric, order=(0, 2))
    expected = sample(made, by_hand, batch=2)
    assert distance(expected, plain(family, batch=2)) > 0.005, "the LoRAs must matter"
    assert distance(found, expected) <= TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize(
    "course, mu", [("falling", lambda p: 2 - 2 * p), ("rising", lambda p: 2 * p)]
)
def test_a_mu_with_a_course_is_read_at_each_evaluation_of_a_sampler(course, mu, sampler):
    made = case("sdxl")
    bank = made.bank((1.0,) * 3)
    gates = method_gates(made, "np_lora", bank, (0, 1, 2), mu=2.0, course=course)

    def table(progress, steps):
        found = torch.zeros(1, len(made.layers), 3)
        found[0, [list(made.layers).index(path) for path in bank.layers]] = 1.0
        return found

    by_hand = MergedByHand(made, (0, 1, 2), table, 1, True, mu)
    by_hand.set_conds(POSITIVE, NEGATIVE)
    by_hand.set_cfg(4.0)
    model = engine.attach(made.model, gates.bank, gates)
    guiders = (acfg_guider(model, POSITIVE, NEGATIVE, 4.0, True), by_hand)
    a, b = (oracle.sample(guider, made.latent(), sampler=sampler, steps=STEPS)
            for guider in guiders)  # fmt: skip
    assert distance(a, b) <= TOLERANCE
    direct = sample(made, reference(made, "direct", "none", True))
    assert distance(b, direct) > 0.005


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory):
    """A LoRA folder of the host with every family's three files and one of zeros."""
    folder = tmp_path_factory.mktemp("loras")
    for name in FAMILIES:
        states = case(name).states
        for j, state in enumerate(states):
            safetensors.torch.save_file(state, folder / f"{name}_{j}.safetensors")
        zeros = {
            key: value if key.endswith("alpha") else torch.zeros_like(value)
            for key, value in states[0].items()
        }
        safetensors.torch.save_file(zeros, folder / f"{name}_zeros.safetensors")
    folder_paths.add_model_folder_path("loras", str(folder))
    yield folder
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


@functools.cache
def clip():
    return pair_parts.tiny_clip()


def routed(name, method, schedule="none", branches=(0, 1, 2), strengths=STRENGTHS):
    """What the Router makes of files and a marked prompt. branches: indices, or "zeros"."""
    family = FAMILIES[name]
    chosen = tuple(
        BranchFile(f"{name}_{j}.safetensors", "content", 1.0)
        if j == "zeros"
        else BranchFile(f"{name}_{j}.safetensors", ROLES[j], strengths[j])
        for j in branches
    )
    request = RouterRequest(
        prompt=PROMPT,
        branches=chosen,
        layer_sets=f"content: {family.content}\nstyle: {family.style}",
        method={"method": method, **SETTINGS.get(method, {})},
        schedule=SCHEDULES[schedule][0],
    )
    return route(case(name).model, clip(), request).model


def fits(family, method) -> bool:
    """Whether a method's own layer set exists in a family: B-LoRA's two blocks are SDXL's."""
    return FUSION[method].traits.pinned_layer_set is None or family == "sdxl"


FITTING = [(f, m) for f in FAMILIES for m in METHODS if fits(f, m)]
UNFITTING = [(f, m) for f in FAMILIES for m in METHODS if not fits(f, m)]


@pytest.mark.parametrize(("family", "method"), FITTING)
def test_the_router_makes_the_same_of_two_contents_and_a_style(family, method, lora_folder):
    """The negative prompt is shorter, so most hosts' models evaluate it in a call of its own."""
    made = case(family)
    asymmetric, schedule = (True, "cosine") if family in ("sdxl", "flux") else (False, "none")
    short = tiny.conditioning(2, tokens=5)
    found = acfg_guider(routed(family, method, schedule), POSITIVE, short, 4.0, asymmetric)
    by_hand = reference(made, method, schedule, asymmetric)
    by_hand.set_conds(POSITIVE, short)
    a, b = sample(made, found), sample(made, by_hand)
    assert distance(b, sample(made, oracle.guider(made.model, POSITIVE, short))) > 0.005
    assert distance(a, b) <= TOLERANCE


@pytest.mark.parametrize(("family", "method"), UNFITTING)
def test_a_method_whose_layers_a_family_lacks_says_so(family, method, lora_folder):
    with pytest.raises(CraftError, match="pattern matches this model"):
        routed(family, method)


SOME = [(f, m) for f, m in FITTING if f in ("sdxl", "z_image")]
DITS = [(f, m) for f, m in FITTING if f not in ("sd15", "sdxl")]


@pytest.mark.parametrize(("family", "method"), SOME)
def test_the_order_of_two_contents_does_not_matter(family, method, lora_folder):
    """LoRA Switch takes turns in the order of the branches: there the order is the method."""
    made = case(family)
    one, other = (
        ours(made, routed(family, method, branches=order), True) for order in ((0, 1, 2), (1, 0, 2))
    )
    assert (distance(one, other) <= TOLERANCE) == (method != "switch")


@pytest.mark.parametrize(("family", "method"), SOME)
def test_a_branch_of_zeros_changes_nothing(family, method, lora_folder):
    """Except where a method divides turns or shares by the number of LoRAs."""
    made = case(family)
    one, other = (
        ours(made, routed(family, method, branches=(*first, 0, 2)), True)
        for first in ((), ("zeros",))
    )
    assert (distance(one, other) <= TOLERANCE) == (method not in ("switch", "composite"))


@pytest.mark.parametrize(("family", "method"), DITS)
def test_at_cfg_1_every_method_is_its_conditional_rows(family, method, lora_folder):
    """No unconditional pass runs, so asymmetric changes nothing; distilled models run so."""
    made = case(family)
    one, other = (
        ours(made, routed(family, method), asymmetric, cfg=1.0) for asymmetric in (False, True)
    )
    expected = sample(made, reference(made, method, "none", True, cfg=1.0))
    assert torch.equal(one, other)
    assert distance(one, expected) <= TOLERANCE


@pytest.mark.parametrize(("family", "method"), FITTING)
def test_without_strength_every_method_is_bitwise_the_model(family, method, lora_folder):
    made = case(family)
    off = routed(family, method, strengths=(0.0, 0.0, 0.0))
    same = torch.equal(ours(made, off, asymmetric=family != "flux"), plain(family))
    assert same


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_at_zero_is_bitwise_the_model_also_where_views_are_averaged(family, asymmetric):
    made = case(family)
    bank = made.bank()
    nothing = Schedule("constant", {"content": 0.0, "style": 0.0})
    gates = compose(method_gates(made, "composite", bank, (0, 1, 2)), bank, nothing)
    same = torch.equal(
        ours(made, engine.attach(made.model, bank, gates), asymmetric), plain(family)
    )
    assert same


@pytest.mark.parametrize("composite_first", [False, True])
def test_a_bank_with_one_view_acts_in_every_view_of_another(composite_first):
    """Two Routers in a row, of which one averages."""
    made = case("qwen_image")
    if composite_first:
        model = attached(
            made, "direct", order=(1,), model=attached(made, "composite", order=(0, 2))
        )
    else:
        model = attached(
            made, "composite", order=(0, 2), model=attached(made, "direct", order=(1,))
        )

    def table(progress, steps):
        found = torch.zeros(2, len(made.layers), 3)
        found[0, :, 0], found[1, :, 2], found[:, :, 1] = STRENGTHS[0], STRENGTHS[2], STRENGTHS[1]
        return found

    by_hand = MergedByHand(made, (0, 1, 2), table, 2, True)
    by_hand.set_conds(POSITIVE, NEGATIVE)
    by_hand.set_cfg(4.0)
    assert distance(ours(made, model, True), sample(made, by_hand)) <= TOLERANCE


def test_two_banks_of_different_numbers_of_views_are_an_error():
    made = case("qwen_image")
    pair = attached(made, "composite", order=(0, 2))
    as_many = attached(made, "composite", order=(1, 2), model=pair)
    more = attached(made, "composite", order=(0, 1, 2), model=pair)
    assert torch.isfinite(ours(made, as_many, True)).all()
    with pytest.raises(CraftError, match="Two Routers in a row"):
        ours(made, more, True)


REFERENCE = torch.randn(1, 16, 6, 8, generator=torch.Generator().manual_seed(9))
EDITING = {
    "z_image": {},
    "qwen_image": {"reference_latents_method": "index_timestep_zero"},
}


@pytest.mark.parametrize("family", EDITING)
def test_rows_stay_apart_where_a_reference_image_doubles_the_time_embedding(family):
    """Reference tokens are modulated at timestep 0: those rows lie below all the others."""
    made = case(family)
    extra = {"reference_latents": [REFERENCE], **EDITING[family]}
    positive, negative = (tiny.conditioning(seed, **extra) for seed in (1, 2))
    found = acfg_guider(attached(made, "direct"), positive, negative, 4.0, True)
    by_hand = reference(made, "direct", "none", True)
    by_hand.set_conds(positive, negative)
    plain_edit = oracle.guider(made.model, positive, negative)
    a, b, c = (sample(made, guider, batch=2) for guider in (found, by_hand, plain_edit))
    assert distance(b, c) > 0.01
    assert distance(a, b) <= TOLERANCE


def test_experts_whose_rows_nobody_can_tell_apart_are_an_error():
    """HiDream sends each token to an expert, so number and order of rows do not show whose picture
    a row is."""
    factors = Factors(torch.randn(2, 6), torch.randn(4, 2))
    bank = Bank.of([Branch("a", "content", {"ff.experts.0": (factors,)})], ["ff.experts.0"])
    layer, x = torch.nn.Linear(6, 4), torch.randn(10, 6)
    symmetric, asymmetric = (
        ModelCall(2, [GatedChunks(0, 2, [[1.0]])]),
        ModelCall(2, [GatedChunks(0, 1, [[1.0]])]),
    )
    (path,), layers = bank.layers, bank.branches[0].layers
    parts = layer_parts(path, [layers], [BranchModule(layers, torch.float32)])
    with torch.no_grad():
        y = LayerHook(0, path, parts, symmetric, layer)(layer, (x,), {}, layer(x))
        assert distance(y, layer(x) + x @ factors.delta().T) <= TOLERANCE
        with pytest.raises(CraftError, match="experts"):
            LayerHook(0, path, parts, asymmetric, layer)(layer, (x,), {}, layer(x))
