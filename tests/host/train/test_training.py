"""The training nodes in the real host: what they save, what they leave, what they refuse."""

from __future__ import annotations

import comfy.lora
import comfy.model_management
import comfy.utils
import folder_paths
import nodes as host_nodes
import pytest
import torch
from craft_lora_pack.comfy_adapter import headless
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model.basis import apply_basis, load_basis
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.comfy_adapter.train import basis as basis_reader
from craft_lora_pack.comfy_adapter.train.data import ExampleEncoder, dataset
from craft_lora_pack.comfy_adapter.train.run import save_place
from craft_lora_pack.comfy_adapter.train.train import Captioned, How, ModelParts, identity
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.projection import Projected, stated_backbone
from craft_lora_pack.craft_core.requests import (
    ModelFiles,
    Picture,
    Stopped,
    TrainData,
    TrainingOptions,
)
from craft_lora_pack.craft_core.routing.layer_sets import resolve
from craft_lora_pack.craft_core.routing.trigger_words import trigger_words
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.nodes.training import TRAINING_NODES
from safetensors import safe_open
from safetensors.torch import load_file
from small_world_models import STYLE, load
from trainings import NO_MEMORY, train_basis, train_lora

from launcher.paths import ROOT

LORA = {"rank": 2, "steps": 3, "batch_size": 2, "learning_rate": 1e-2, "warmup": 1}
BASIS = {"r_max": 3, "r_min": 1, "steps": 2, "batch_size": 1, "warmup": 1}
TrainBasis, TrainLoRA = TRAINING_NODES["basis"], TRAINING_NODES["lora"]
SETS = "content: middle_block\nstyle: output_blocks.8"
CAPTION = "a <c>sks animal</c> in flat style"


@pytest.fixture(scope="module")
def world():
    with torch.inference_mode():
        return load()


def source(world) -> ModelParts:
    return ModelParts(world.model, world.clip, world.vae)


def image(seed=0, height=64, width=64):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def learn(world, name, caption=CAPTION, images=None, how=None, watch=lambda t: None, **knobs):
    with torch.inference_mode():
        return train_lora(
            source(world), Captioned(images or [image()], [caption]), None, "content", SETS,
            {**LORA, **knobs}, how or How(name), watch,
        )  # fmt: skip


def limit(world, name, how=None, watch=lambda t: None, **knobs):
    with torch.inference_mode():
        return train_basis(
            source(world),
            Captioned([image(1)], ["a cat in flat style"]),
            Captioned([image(2)], ["a house in zwx style"]),
            "none", {**BASIS, **knobs}, how or How(name), watch,
        )  # fmt: skip


def stop_after(step):
    def watch(training):
        if training.step == step:
            raise comfy.model_management.InterruptProcessingException

    return watch


def tensors(path):
    return load_file(path)


def same(one, other):
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_host_loads_every_key_of_a_trained_lora(world):
    trained = learn(world, "train/all_keys")
    state = comfy.utils.load_torch_file(str(trained.path), safe_load=True)
    names = comfy.lora.model_lora_keys_unet(world.model.model, {})
    patches = comfy.lora.load_lora(state, names)
    assert 3 * len(patches) == len(state) > 0


def test_what_all_captions_mark_are_the_files_trigger_words(world):
    captions = "a <c>sks animal</c> in <s>flat style</s>\na big <c>sks animal</c>"
    trained = learn(world, "train/words", captions, [image(), image(1)], steps=1)
    with safe_open(trained.path, "pt") as file:
        assert trigger_words(file.metadata()) == ("sks animal",)
    plain = learn(world, "train/no_words", "an animal", steps=1)
    with safe_open(plain.path, "pt") as file:
        assert trigger_words(file.metadata()) == ()


def test_no_key_lies_outside_the_layer_set(world):
    trained = learn(world, "train/restricted")
    file = read_branch_file(trained.name, world.model)
    allowed = resolve(SETS, model_layers(world.model)).content
    assert file.layers.keys() <= allowed and not file.unmatched
    assert any(path.endswith("attn1.to_q") for path in file.layers)


def test_the_saved_lora_is_the_branch_the_router_reads_and_the_hosts_own_lora(world):
    """Node -> file -> Router (method direct) == the host's LoraLoader with that file."""
    trained = learn(world, "train/equal", learning_rate=0.05, steps=5)
    request = RouterRequest("a cat", (BranchFile(trained.name, "content", 1.0),), "all",
                            {"method": "direct"})  # fmt: skip
    with torch.inference_mode():
        routed = route(world.model, world.clip, request).model
        patched = host_nodes.LoraLoader().load_lora(
            world.model, world.clip, trained.name, 1.0, 0.0
        )[0]
        pictures = [sample(world, model) for model in (world.model, routed, patched)]
    torch.testing.assert_close(pictures[1], pictures[2], rtol=1e-3, atol=2e-4)
    assert (pictures[0] - pictures[1]).abs().max() > 1e-2


def sample(world, model):
    latent = host_nodes.EmptyLatentImage().generate(64, 64)[0]
    return host_nodes.KSampler().sample(
        model, 3, 3, 4.0, "euler", "normal",
        world.encode("a cat in flat style"), world.encode(""), latent,
    )[0]["samples"].clone()  # fmt: skip


def test_the_same_seed_gives_the_same_tensors_and_a_new_file(world):
    first, second = learn(world, "train/seed", seed=5), learn(world, "train/seed", seed=5)
    assert first.path != second.path and same(first.path, second.path)
    assert not same(first.path, learn(world, "train/seed", seed=6).path)
    one, two = limit(world, "train/seed"), limit(world, "train/seed")
    assert one.path != two.path and same(one.path, two.path)


@pytest.mark.parametrize("teach", [learn, limit], ids=["lora", "basis"])
def test_an_interrupt_leaves_a_loadable_result_that_goes_on_to_the_same_bytes(world, teach):
    name = f"train/interrupted_{teach.__name__}"
    whole = teach(world, name + "_whole", steps=4)
    folder = "loras" if teach is learn else "craft_bases"
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        teach(world, name, watch=stop_after(2), steps=4)
    partial = save_place(name, folder).path.with_name(f"{name.split('/')[1]}_00001_.safetensors")
    with safe_open(partial, framework="pt") as file:
        assert (file.metadata()["steps_done"], file.metadata()["steps_asked"]) == ("2", "4")
    listed = f"train/{partial.name}"
    if teach is learn:
        assert read_branch_file(listed, world.model).layers
    else:
        assert load_basis(listed).layers
    resumed = teach(world, name, how=How(name, resume=True), steps=4)
    assert resumed.path != partial and same(resumed.path, whole.path)
    assert "2 of them resumed" in resumed.report


def test_an_interrupt_before_the_first_step_writes_nothing(world):
    place = save_place("train/never", "loras")
    with torch.inference_mode(), pytest.raises(KeyboardInterrupt):

        def watch(training):
            training.losses.clear()
            raise KeyboardInterrupt

        learn(world, "train/never", watch=watch)
    assert not place.path.exists() and not place.state.exists()


def test_a_loss_that_is_not_finite_writes_nothing(world):
    place = save_place("train/nan", "loras")
    with pytest.raises(CraftError, match="not finite|nan"):
        learn(world, "train/nan", learning_rate=1.0, steps=3, watch=_poison)
    assert not place.path.exists() and not place.state.exists()


def _poison(training):
    with torch.no_grad():
        next(iter(training.parameters.values())).fill_(float("inf"))


def test_resume_without_a_state_begins_afresh_and_says_so(world):
    trained = learn(world, "train/fresh", how=How("train/fresh", resume=True))
    assert "nothing to resume" in trained.report


def test_a_basis_is_the_base_models_by_hash_and_its_layers_are_the_models(world):
    trained = limit(world, "train/basis")
    basis = load_basis(trained.name)
    assert len(basis.base_model) == 64
    assert basis.layers.keys() <= model_layers(world.model).keys()
    assert "without the perceptual term" in trained.report


def test_the_nodes_return_what_they_saved(world):
    settings = {
        "role": ["content"], "layer_sets": {"layer_sets": ["custom"], "patterns": [SETS]},
        "save_name": ["train/node"], "precision": ["fp32"], "gradient_checkpointing": [False],
        "resume": [False],
    }  # fmt: skip
    knobs = {p.name: [p.default] for p in TRAINING["lora"].parameters}
    given = ([world.model], [world.clip], [world.vae])
    with torch.inference_mode():
        branches, state, losses, report = TrainLoRA.execute(
            *given,
            [image()],
            [CAPTION],
            **settings,
            **{**knobs, **{k: [v] for k, v in LORA.items()}},
        ).result
    assert branches == (BranchFile("train/node_00001_.safetensors", "content", 1.0),)
    assert state.keys() == tensors(folder_paths.get_full_path("loras", branches[0].name)).keys()
    assert len(losses["loss"]) == 3 and "node_00001_" in report
    settings = {k: settings[k] for k in ("precision", "gradient_checkpointing", "resume")}
    knobs = {p.name: [p.default] for p in TRAINING["basis"].parameters}
    knobs |= {name: [value] for name, value in BASIS.items()}
    with torch.inference_mode():
        limited, losses, report = TrainBasis.execute(
            *given, [image(1)], [image(2)], ["a cat"], ["a house"], save_name=["train/node"],
            vgg=["none"], **settings, **knobs,
        ).result  # fmt: skip
        assert (sample(world, limited) - sample(world, world.model)).abs().max() > 1e-3
    assert len(losses["loss"]) == 2 and "node_00001_" in report


def test_several_settings_for_one_training_are_refused(world):
    with pytest.raises(CraftError, match="precision got 2 values"):
        TrainLoRA.execute([world.model], [world.clip], [world.vae], [image()], [CAPTION],
                          precision=["bf16", "fp32"])  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": ""}, "caption of training image 1 is empty"),
        ({"caption": "<c></c>"}, "marks no words"),
        ({"caption": "a\nb\nc", "images": [image(), image(1)]}, "3 training captions for 2"),
        ({"images": [torch.zeros(0, 64, 64, 3)]}, "no training image"),
        ({"images": [torch.full((1, 64, 64, 3), float("nan"))]}, "not finite"),
        ({"images": [torch.zeros(1, 64, 64, 1)]}, "three colours"),
        ({"rank": 0}, "rank"),
        ({"learning_rate": 2.0}, "learning_rate"),
        ({"how": How("../outside")}, "save_as"),
        ({"how": How("")}, "save_as"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(world, changes, message):
    before = set(folder_paths.get_filename_list("loras"))
    with pytest.raises(CraftError, match=message):
        learn(world, "train/refused", **changes)
    assert not save_place("train/refused", "loras").path.exists()
    assert set(folder_paths.get_filename_list("loras")) == before


def test_a_checkpoint_without_clip_or_vae_is_an_error(world):
    for missing in ("clip", "vae"):
        parts = {"model": world.model, "clip": world.clip, "vae": world.vae, missing: None}
        with pytest.raises(CraftError, match=f"{missing} is empty"):
            train_lora(
                ModelParts(**parts), Captioned([image()], ["a"]), None, "content", "all", LORA,
                How("train/parts"), lambda t: None,
            )  # fmt: skip


def test_a_routed_model_is_refused(world):
    trained = learn(world, "train/routed")
    request = RouterRequest("a cat", (BranchFile(trained.name, "content", 1.0),), "all",
                            {"method": "direct"})  # fmt: skip
    with torch.inference_mode():
        routed = route(world.model, world.clip, request).model
    with pytest.raises(CraftError, match="Router"):
        ModelParts(routed, world.clip, world.vae)


def test_a_limited_model_is_refused_for_a_basis_before_it_trains(world):
    with torch.inference_mode():
        limited = apply_basis(world.model, load_basis(limit(world, "train/once").name))
        with pytest.raises(CraftError, match="already rank-limited"):
            train_basis(
                ModelParts(limited, world.clip, world.vae), Captioned([image(1)], ["a cat"]),
                Captioned([image(2)], ["a house"]), "none", BASIS, How("train/twice"),
                lambda t: pytest.fail("it trained"),
            )  # fmt: skip


def test_a_crop_is_another_picture_than_the_one_it_was_cut_from(world):
    whole = image(3)
    with torch.inference_mode():
        encoder = ExampleEncoder(world.model, world.clip, world.vae)
        data = dataset(encoder, [whole, whole[:, :32, :32]], ["a whole", "a crop"])
    assert [one.latent.shape[-1] for one in data.examples] == [64, 32]


def test_content_and_style_of_one_name_resume_each_their_own(world):
    for role in ("content", "style"):
        with torch.inference_mode(), pytest.raises(KeyboardInterrupt):
            train_lora(source(world), Captioned([image()], ["a cat"]), None, role, SETS, LORA,
                       How("train/shared"), _interrupt)  # fmt: skip
    with torch.inference_mode():
        for role in ("content", "style"):
            done = train_lora(source(world), Captioned([image()], ["a cat"]), None, role, SETS,
                              LORA, How("train/shared", resume=True), lambda t: None)  # fmt: skip
            assert "1 of them resumed" in done.report


def _interrupt(training):
    raise KeyboardInterrupt


def test_a_file_that_came_meanwhile_is_not_overwritten(world):
    place = save_place("train/meanwhile", "loras")

    def watch(training):
        place.path.write_bytes(b"someone else's")

    trained = learn(world, "train/meanwhile", watch=watch)
    assert place.path.read_bytes() == b"someone else's" and trained.path != place.path


def test_ctrl_c_tells_where_the_partial_result_is(world, monkeypatch):
    """Another training took the name meanwhile: its file is not the one that is reported."""
    monkeypatch.setattr(headless, "_source", lambda files: source(world))
    picture = Picture(ROOT / "small_world" / "references" / "content.png", CAPTION)
    taken = save_place("train/reported", "loras").path

    def watch(training):
        taken.write_bytes(b"someone else's")
        raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        data = TrainData(
            "lora", {"images": [picture], "prior": []}, (),
            {"role": "content", "layer_sets": SETS},
        )  # fmt: skip
        headless.train(TrainingOptions(ModelFiles(), "train/reported"), data, LORA, watch)
    assert taken.read_bytes() == b"someone else's" and stopped.value.path != taken
    with safe_open(stopped.value.path, framework="pt") as file:
        assert file.metadata()["steps_done"] == "1"
    assert stopped.value.state.is_file()


@pytest.mark.parametrize("when", NO_MEMORY)
def test_a_command_whose_training_runs_out_of_memory_says_what_to_do_and_what_is_kept(
    when, world, monkeypatch
):
    monkeypatch.setattr(headless, "_source", lambda files: source(world))
    picture = Picture(ROOT / "small_world" / "references" / "content.png", CAPTION)
    name = f"train/full_{when.replace(' ', '_')}"

    def watch(training):
        if training.step == 2:
            raise NO_MEMORY[when]()

    data = TrainData("lora", {"images": [picture], "prior": []}, (),
                     {"role": "content", "layer_sets": SETS})  # fmt: skip
    with pytest.raises(CraftError, match="GPU ran out of memory.*step 2 of 3.*--batch-size"):
        headless.train(TrainingOptions(ModelFiles(), name), data, LORA, watch)
    assert save_place(name, "loras", "content").state.is_file()


def test_a_training_resumes_on_its_own_backbone_only(world):
    one, two = limit(world, "train/backbone", seed=1), limit(world, "train/backbone", seed=2)
    with torch.inference_mode():
        backbones = [apply_basis(world.model, load_basis(b.name)) for b in (one, two)]
        for step, model in enumerate(backbones):
            given = ModelParts(model, world.clip, world.vae), Captioned([image()], ["a cat"])
            rest = None, "content", SETS, LORA, How("train/on_backbone", resume=bool(step))
            if not step:
                train_lora(*given, *rest, lambda t: None)
                continue
            with pytest.raises(CraftError, match="base_model"):
                train_lora(*given, *rest, lambda t: None)


def test_a_lora_on_another_backbone_than_it_was_trained_on_is_told(world):
    """Its file names the basis, its part and the strength; where all agree nothing is said."""
    one, other = limit(world, "train/told", seed=1), limit(world, "train/told_other", seed=2)
    with torch.inference_mode():
        basis = load_basis(one.name)
        models = {
            "plain": world.model,
            "limited": apply_basis(world.model, basis),
            "weaker": apply_basis(world.model, basis, strength=0.5),
            "content alone": apply_basis(world.model, basis, "content"),
            "other": apply_basis(world.model, load_basis(other.name)),
        }
        for trained_on in ("plain", "limited"):
            parts = ModelParts(models[trained_on], world.clip, world.vae)
            file = train_lora(
                parts, Captioned([image()], ["a cat"]), None, "content", SETS,
                {**LORA, "steps": 1}, How(f"train/on_{trained_on}"), lambda t: None,
            )  # fmt: skip
            notes = {name: backbone_lines(world, model, file) for name, model in models.items()}
            assert notes.pop(trained_on) == []
            told = trained_on == "limited"
            assert all(len(lines) == told for lines in notes.values()), notes
            with safe_open(file.path, "pt") as opened:
                metadata = opened.metadata()
            if trained_on == "plain":
                assert "craft_basis" not in metadata
            else:
                own = f"told_00001_.safetensors ({basis.digest}), both at 1"
                assert stated_backbone(metadata) == {
                    Projected("told_00001_.safetensors", basis.digest, "both", 1.0)
                }
                assert notes["plain"][0].endswith(f"of {own}, and this MODEL has no basis")
                assert f"of {own}, and this MODEL is that of told_" in notes["weaker"][0]
                assert "both at 0.5" in notes["weaker"][0]


def backbone_lines(world, model, file):
    request = RouterRequest(
        "a cat", (BranchFile(file.name, "content", 1.0),), "all", {"method": "direct"}
    )
    report = route(model, world.clip, request).report
    return [line for line in report.splitlines() if line.startswith(f"{file.name}: it was trained")]


def test_a_vgg_file_is_used_and_named(world, monkeypatch):
    """The term itself is tested in the core; here, that the node's file reaches it."""

    class Squared:
        def to(self, device):
            return self

        def __call__(self, pictures, targets):
            return (pictures - targets).square().mean()

    monkeypatch.setattr(basis_reader, "path_of", lambda slot, name: name)
    monkeypatch.setattr(basis_reader, "read_vgg", lambda path: Squared())
    with torch.inference_mode():
        trained = train_basis(
            source(world), Captioned([image(1)], ["a cat"]), Captioned([image(2)], ["a house"]),
            "vgg19.safetensors", BASIS, How("train/vgg"), lambda t: None,
        )  # fmt: skip
    assert "content perceptual" in trained.report and "vgg19.safetensors" in trained.report


def test_a_lora_on_the_model_is_part_of_its_identity(world):
    """Each patch of the host counts, with its strength; the plain model is its file alone."""
    plain = identity(world.model)
    named = {
        strength: identity(
            host_nodes.LoraLoader().load_lora(world.model, world.clip, STYLE, strength, 0.0)[0]
        )
        for strength in (1.0, 0.5)
    }
    assert len({plain, *named.values()}) == 3
    assert all(name.startswith(plain) for name in named.values())
