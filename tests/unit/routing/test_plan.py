"""One plan for all callers: which LoRA acts where, and what matched nothing."""

import re

import pytest
import torch
from unet_layers import sdxl_layers

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.lora import Meter, pair_statistics
from craft_core.registry import Registry
from craft_core.routing import parse, split_by_energy
from craft_core.routing.plan import (
    CandidateLora,
    PlanRequest,
    lacks_blocks,
    plan,
    require_unnamed_sets,
    used_sets,
)
from craft_core.time import Moment
from craft_core.types import Branch, Factors, constant_gates

LAYERS = sdxl_layers()
PATHS = [path for path in LAYERS if path.endswith("transformer_blocks.0.attn1.to_q")]
EARLY = PATHS[:2]  # input blocks
MOMENTS = [Moment(i / 19, 20) for i in range(20)]
BOTH = parse("<c>a dog</c> in <s>ink</s>")


def lora(role, seed, paths=PATHS, strength=1.0, name=""):
    random = torch.Generator().manual_seed(seed)
    layers = {
        path: (Factors(torch.randn(2, 6, generator=random), torch.randn(5, 2, generator=random)),)
        for path in paths
    }
    return Branch(name or f"{role}-{seed}", role, layers, strength)


def asked(method="craft", layer_sets="all", marked=BOTH, **changes):
    chosen = FUSION[method]
    return PlanRequest(chosen, chosen.knobs({}), layer_sets, marked, **changes)


def planned(branches, *settings, **changes):
    given = [one if isinstance(one, CandidateLora) else CandidateLora(one) for one in branches]
    return plan(given, asked(*settings, **changes), LAYERS)


def acts(made):
    """By branch, the layers it acts on at some moment."""
    tables = torch.stack([made.gates.at(moment) for moment in MOMENTS]).any(dim=0).any(dim=0)
    return [
        {path for path, on in zip(made.bank.layers, column, strict=True) if on and path in b.layers}
        for column, b in zip(tables.T.tolist(), made.bank.branches, strict=True)
    ]


PAIR = [lora("content", 1), lora("style", 2)]


@pytest.mark.parametrize("method", FUSION.keys())
def test_own_layers_are_as_a_file_that_has_no_others(method):
    """In place of the role's layer set, and of a set that is part of the method."""
    own = CandidateLora(PAIR[1], layers="input_blocks.4  # mine\n# a comment")
    kept = [path for path in PATHS if path.startswith("input_blocks.4.")]
    made = planned([PAIR[0], own], method)
    cut = lora("style", 2, name="cut")
    cut = CandidateLora(
        Branch("cut", "style", {path: cut.layers[path] for path in kept}), "input_blocks.4"
    )
    other = planned([PAIR[0], cut], method)
    assert set(made.bank.branches[1].layers) == set(kept) and acts(made)[1] == set(kept)
    assert made.bank.layers == other.bank.layers
    for moment in MOMENTS:
        assert torch.equal(made.gates.at(moment), other.gates.at(moment))
    assert (made.active[1], made.adapted[1]) == (len(kept), len(PATHS))
    (line,) = made.notes
    instead = {"craft": "the style set", "b_lora": "the method's own style layers"}
    assert line == (
        f"style-2: own layers input_blocks.4, in place of {instead.get(method, 'all its layers')}"
    )
    assert line in made.report


def test_own_layers_of_one_lora_move_no_other_loras_layer_set():
    own = CandidateLora(PAIR[1], layers="input_blocks.4")
    alone, beside = planned(PAIR, "craft", "auto"), planned([PAIR[0], own], "craft", "auto")
    assert acts(alone)[0] == acts(beside)[0] and acts(beside)[1] != acts(alone)[1]


@pytest.mark.parametrize("method", FUSION.keys())
def test_a_lora_of_strength_0_changes_nothing_but_its_own_column(method):
    off = lora("content", 3, strength=0.0)
    alone = planned(PAIR, method, "auto")
    beside = planned([*PAIR, off], method, "auto")
    assert beside.gammas[2] == 0.0 and not beside.bank.branches[2].layers
    assert acts(beside)[:2] == acts(alone)
    assert beside.layer_sets[:2] == alone.layer_sets


@pytest.mark.parametrize("method", [m.key for m in FUSION if m.traits.markers])
def test_without_a_prompt_every_marker_counts_as_there(method):
    with_both, without = planned(PAIR, method), planned(PAIR, method, marked=None)
    assert without.gammas == (1.0, 1.0)
    for moment in MOMENTS:
        assert torch.equal(without.gates.at(moment), with_both.gates.at(moment))
    off = planned(PAIR, method, marked=parse("a dog"))
    assert off.gammas == (0.0, 0.0) and not off.bank.layers


def test_what_no_gate_can_reach_is_left_out_unless_the_bank_is_to_be_whole():
    split = "content: input_blocks\nstyle: output_blocks"
    made, whole = planned(PAIR, "craft", split), planned(PAIR, "craft", split, whole=True)
    assert [set(b.layers) for b in made.bank.branches] == acts(made) == acts(whole)
    assert [set(b.layers) for b in whole.bank.branches] == [set(PATHS)] * 2
    assert made.adapted == (len(PATHS),) * 2


UNMATCHED = [
    ({}, CandidateLora(lora("style", 2), unmatched=("a.key", "b.key")),
     "style-2: 2 keys (a.key, b.key)"),
    ({"layer_sets": "content: input_blocks\nstyle: output_blocks\nstyle: nowhere.1"},
     CandidateLora(lora("style", 2)), "layer patterns style: nowhere.1"),
    ({}, CandidateLora(lora("style", 2), "output_blocks\nnowhere.2"),
     "layers of style-2 (style: nowhere.2)"),
    ({"layer_sets": "content: input_blocks\nstyle: output_blocks"},
     CandidateLora(lora("style", 2, EARLY)), "style-2: it adapts no layer of its style set"),
    ({}, CandidateLora(lora("style", 2, EARLY), "output_blocks"),
     "style-2: it adapts no layer of its own layers"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "given", "fault"), UNMATCHED)
def test_what_matches_nothing_is_refused_and_reported_where_it_is_allowed(changes, given, fault):
    with pytest.raises(CraftError) as caught:
        planned([PAIR[0], given], **changes)
    assert caught.value.given == f"Something given matches nothing: {fault}"
    assert "allow_unmatched" in caught.value.action
    made = planned([PAIR[0], given], **changes, allow_unmatched=True)
    assert made.faults == (fault,)
    assert f"Matches nothing: {fault}" in made.notes and f"Matches nothing: {fault}" in made.report


def test_many_unmatched_keys_are_counted_and_a_few_named():
    given = CandidateLora(PAIR[0], unmatched=tuple(f"key.{i}" for i in range(20)))
    (fault,) = planned([given], allow_unmatched=True).faults
    assert fault.startswith("content-1: 20 keys (key.0, ") and fault.endswith(" and 12 more)")


def test_a_presets_patterns_that_a_model_lacks_are_reported_and_no_fault():
    made = planned(PAIR, "craft", "craft-paper")
    assert not made.faults
    assert any("no layers for: content: up_blocks.2.attentions.0" in line for line in made.report)


def test_a_lora_that_is_off_may_match_no_layer():
    elsewhere = lora("style", 2, EARLY)
    split = "content: input_blocks\nstyle: output_blocks"
    for marked, strength in ((parse("<c>a dog</c>"), 1.0), (BOTH, 0.0)):
        style = Branch(elsewhere.name, "style", elsewhere.layers, strength)
        assert not planned([PAIR[0], style], "craft", split, marked).faults


def test_auto_is_the_split_by_energy_of_the_files():
    content, style = split_by_energy(PAIR, LAYERS)
    assert planned(PAIR, "craft", "auto").layer_sets == (content, style)


def test_a_method_gets_the_statistics_it_declares_and_no_others():
    registry, got = Registry("method"), []
    for names in (("squared_norm",), ("top_k", "abs_sum"), ()):

        def method(bank, routing):
            got.append(routing.statistics)
            return constant_gates(torch.ones(len(bank.layers), len(bank.branches)))

        method.__name__ = f"needs_{len(got)}_{len(names)}"
        traits = type(FUSION["direct"].traits)(markers=True, layer_sets=False, statistics=names)
        registry.register("x", traits=traits)(method)
        chosen = registry[method.__name__]
        plan([CandidateLora(one) for one in PAIR], PlanRequest(chosen), LAYERS)
        if not names:
            assert got[-1] is None
            continue
        for name in names:
            assert dict(got[-1].shared(name)) == dict(pair_statistics(PAIR, LAYERS).shared(name))
        with pytest.raises(AssertionError, match="without declaring"):
            got[-1].shared({"top_k", "squared_norm"}.difference(names).pop())


def test_numbers_that_a_meter_knows_are_not_measured_again():
    meters = [Meter(one.name, one.layers) for one in PAIR]
    first = plan(
        [CandidateLora(b, meter=m) for b, m in zip(PAIR, meters, strict=True)],
        asked("k_lora"),
        LAYERS,
    )  # noqa: E501
    blind = [Meter(one.name, {}, meter.known) for one, meter in zip(PAIR, meters, strict=True)]
    again = plan(
        [CandidateLora(b, meter=m) for b, m in zip(PAIR, blind, strict=True)],
        asked("k_lora"),
        LAYERS,
    )  # noqa: E501
    assert first.gates.notes == again.gates.notes


def test_nothing_is_measured_where_nothing_is_compared():
    unmeasurable = [CandidateLora(one, meter=Meter(one.name, {})) for one in PAIR]
    for marked in (parse("a dog"), parse("<c>a dog</c>")):
        plan(unmeasurable, asked("k_lora", marked=marked), LAYERS)
    plan(unmeasurable, asked("direct"), LAYERS)


def test_without_names_the_layer_sets_are_auto_and_all():
    plain = {path.replace(".", "_"): LAYERS[path] for path in PATHS}
    given = [
        CandidateLora(lora(role, seed, list(plain)))
        for seed, role in enumerate(("content", "style"))
    ]
    for text in ("auto", "all"):
        plan(given, asked("craft", text, named=False), plain)
    for method, text in (("craft", "b-lora"), ("b_lora", "all"), ("craft", "content: x")):
        with pytest.raises(CraftError, match="no model"):
            plan(given, asked(method, text, named=False), plain)
    require_unnamed_sets(FUSION["direct"], "b-lora")  # uses none


def test_a_method_with_blocks_of_its_own_says_what_a_model_lacks():
    assert lacks_blocks(FUSION["b_lora"], LAYERS) == ""
    assert "up_blocks.0.attentions.0" in lacks_blocks(FUSION["b_lora"], {"layers.0.q": (4, 4)})
    assert all(not lacks_blocks(m, {"layers.0.q": (4, 4)}) for m in FUSION if m.key != "b_lora")


def test_a_file_records_the_layer_sets_that_its_method_goes_by():
    sets = {method.key: used_sets(method, "auto") for method in FUSION}
    assert sets.pop("craft") == "auto" and sets.pop("b_lora") == "b-lora" and not any(sets.values())


def test_no_lora_is_a_plan_too():
    made = planned([])
    assert not made.bank.layers and "No LoRA chosen" in "\n".join(made.report)


@pytest.mark.parametrize("layer_sets", ["all", "auto"])
@pytest.mark.parametrize("method", FUSION.keys())
def test_a_lora_of_a_text_encoder_alone_is_a_branch_without_layers(method, layer_sets):
    """It has no turn to take in layers, and nothing it could match is missing."""
    texts = Branch("texts", "style", {})
    for branches in ([PAIR[0], texts], [texts], [texts, Branch("more", "content", {})]):
        made = planned(branches, method, layer_sets)
        assert not made.faults
        assert any("texts" in line and "the text encoder alone" in line for line in made.report)
        for moment in MOMENTS[::6]:
            assert torch.isfinite(made.gates.at(moment)).all()


def test_an_embedding_beside_a_lora_is_called_one():
    keys = ("lora_unet_x", "bundle_emb.word.string_to_param.*")
    with pytest.raises(CraftError, match=r"1 keys \(lora_unet_x\).*an embedding beside the LoRA"):
        planned([CandidateLora(PAIR[0], unmatched=keys)])
    made = planned([CandidateLora(PAIR[0], unmatched=keys[1:])], allow_unmatched=True)
    assert len(made.faults) == 1 and "bundle_emb.word" in made.faults[0]


def test_what_a_file_says_of_its_reading_is_in_the_report():
    made = planned([CandidateLora(PAIR[0], notes=("half as strong",))])
    line = f"{PAIR[0].name}: half as strong"
    assert line in made.report and line in made.notes


@pytest.mark.parametrize("path", ["llm_adapter.blocks.0.q", "llm_adapter_blocks_0_q"])
def test_layers_that_the_host_runs_before_it_samples_are_named_under_either_name(path):
    layers = {path: (5, 6), "blocks.0.q": (5, 6), "llm_adapters.0.q": (5, 6)}
    given = [CandidateLora(lora("content", 1, list(layers)))]
    made = plan(given, asked(), layers)
    assert made.early.startswith(f"1 of the LoRAs' layers are run once, before sampling ({path})")
    assert made.early in made.notes and made.early in made.report
    later = {other: shape for other, shape in layers.items() if other != path}
    assert not plan([CandidateLora(lora("content", 1, list(later)))], asked(), later).early


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("prompt", ["<c>a</c> <s>b</s>", "<c>a</c>", "<s>b</s>", "a", None])
@pytest.mark.parametrize("method", FUSION.keys())
def test_the_report_says_in_how_many_layers_a_lora_acts_and_why_one_is_off(method, prompt, whole):
    marked = prompt if prompt is None else parse(prompt)
    branches = [*PAIR, lora("style", 3, EARLY), lora("content", 4, strength=0.0)]
    changes = {"marked": marked, "allow_unmatched": True}
    made = planned(branches, method, **changes, whole=whole)
    acting = planned(branches, method, **changes)
    said = [line for line in made.report if "adapted layers" in line]
    assert [int(re.search(r"acts on (\d+) of", line)[1]) for line in said] == [
        len(branch.layers) for branch in acting.bank.branches
    ]
    assert made.active == acting.active == tuple(len(b.layers) for b in acting.bank.branches)
    for branch, gamma, line in zip(branches, made.gammas, said, strict=True):
        assert (", off: acts on 0 of " in line) == (not gamma)
        why = "strength 0" if not branch.strength else "no marker"
        assert gamma or f"gamma 0 ({why})" in line


def test_a_file_of_a_text_encoder_alone_that_is_off_acts_on_nothing():
    made = planned([lora("style", 1, [])], marked=parse("<c>a</c>"))
    assert "style style-1: strength 1, gamma 0 (no marker), off" in made.report
