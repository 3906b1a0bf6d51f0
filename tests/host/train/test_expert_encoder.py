"""The expert encoder in the real host: trained on the small world, and routed with it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import comfy.utils
import folder_paths
import nodes
import oracle
import pytest
import safetensors.torch
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.model import expert_encoder as adapter
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.craft_core.encoder import ExpertEncoder, read_encoder, write_encoder
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.lora import write_lora
from craft_lora_pack.craft_core.routing import parse
from craft_lora_pack.craft_core.training import TRAINING
from craft_lora_pack.nodes import router
from craft_lora_pack.nodes.expert_encoder import LoadExpertEncoder
from craft_lora_pack.nodes.lora_branch import LoadLoRABranch
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.training import TRAINING_NODES
from oracle import distance
from safetensors.torch import load_file

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
FILES = (BranchFile(small.CONTENT, "content", 0.9), BranchFile(small.STYLE, "style", 0.6))
BLOCKS = {"layer_sets": "b-lora"}
TrainEncoder = TRAINING_NODES["expert_encoder"]
OWN = "<c>a sks animal</c> in flat style"
OTHERS = [("cat", "flat"), ("house", "comic"), ("boat", "flat"), ("tree", "comic")]


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def folder(tmp_path):
    """A further folder for encoders and LoRAs, gone after the test."""
    adapter.encoder_files()  # registers the kind
    for kind in (adapter.FOLDER, "loras"):
        folder_paths.add_model_folder_path(kind, str(tmp_path))
    yield tmp_path
    for kind in (adapter.FOLDER, "loras"):
        folder_paths.folder_names_and_paths[kind][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def route(world, prompt=PROMPT, content=small.CONTENT, style=small.STYLE, **changes):
    settings = {
        "content_strength": 0.9, "style_strength": 0.6,
        "layer_sets": {"layer_sets": "all"}, "method": {"method": "craft"}, **changes,
    }  # fmt: skip
    return Router.execute(world.model, world.clip, prompt, content, style, **settings).result


def sample(model, positive, negative, steps=3):
    with torch.inference_mode():
        return nodes.common_ksampler(
            model, 1, steps, 3.0, "euler", "normal", positive, negative,
            nodes.EmptyLatentImage().generate(64, 64)[0],
        )[0]["samples"]  # fmt: skip


def factors(file, world):
    return read_branch_file(file.name, world.model).layers


def layers_of(world):
    """All layers the two small-world LoRAs adapt, by role."""
    return {file.role: list(factors(file, world)) for file in FILES}


def encoder(world, path, trained=True, concepts=None, text_width=None, layers=None):
    """An encoder file for the small world's LoRAs, of random weights or as before training."""
    width = text_width or len(adapter.embedding(world.clip, "a cat"))
    known = [adapter.concept(FILES)] if concepts is None else concepts
    made = ExpertEncoder(layers or layers_of(world), width, known)
    if trained:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            made.head.weight.normal_(0.0, 0.5, generator=generator)
            made.head.bias.normal_(0.0, 0.5, generator=generator)
    write_encoder(path, made)
    return made


@pytest.mark.parametrize("method", FUSION.keys())
def test_an_untrained_encoder_is_no_encoder_bitwise(world, folder, method):
    encoder(world, folder / "fresh.safetensors", trained=False)
    chosen = {"method": {"method": method}, "layer_sets": BLOCKS}
    plain, positive, *_ = route(world, **chosen)
    ours, *_ = route(world, expert_encoder="fresh.safetensors", **chosen)
    negative = world.encode("")
    assert torch.equal(sample(ours, positive, negative), sample(plain, positive, negative))


def test_a_router_with_an_encoder_is_one_whose_factors_are_scaled_by_hand(world, folder):
    made = encoder(world, folder / "random.safetensors")
    marked = parse(PROMPT)
    scales = made.scales(made.concepts[0], adapter.phrases(world.clip, marked))
    for file in FILES:
        layers = {}
        for path, updates in factors(file, world).items():
            (one,) = updates
            scaled = one.up.float() * scales[file.role][path]
            layers[path] = type(one)(one.down.float(), scaled, one.scale)
        write_lora(folder / f"by_hand_{file.role}.safetensors", layers)
    ours, positive, *_ = route(world, expert_encoder="random.safetensors")
    by_hand, *_ = route(
        world, content="by_hand_content.safetensors", style="by_hand_style.safetensors"
    )
    plain, *_ = route(world)
    negative = world.encode("")
    a, b, again, c = (
        sample(model, positive, negative)
        for model in (ours, by_hand, oracle.row_by_row(by_hand), plain)
    )
    assert distance(a, c) > 0.02
    assert distance(a, b) <= oracle.law(b, again)


def test_the_report_says_whether_the_pair_is_known_and_what_the_scales_are(world, folder):
    encoder(world, folder / "random.safetensors")
    *_, report, _, _ = route(world, expert_encoder="random.safetensors", layer_sets=BLOCKS)
    assert "random.safetensors: these LoRAs are its own" in report
    for role in ("content", "style"):
        line = re.search(rf"{role} \S+: expert scales (\S+) to (\S+), mean (\S+), on (\d+)", report)
        low, high, mean, count = map(float, line.groups())
        assert 0 <= low <= mean <= high and count > 0


def test_a_role_that_is_off_is_reported_off_and_needs_no_scales(world, folder):
    layers = {"content": layers_of(world)["content"]}
    encoder(world, folder / "content.safetensors", layers=layers)
    *_, report, _, _ = route(
        world, prompt="<c>a sks animal</c> in zwx style", expert_encoder="content.safetensors"
    )
    assert re.search(r"style \S+: expert scales off", report)


def test_other_loras_than_it_was_trained_with_are_a_warning(world, folder, monkeypatch):
    encoder(world, folder / "other_loras.safetensors", concepts=[])
    warnings = []
    monkeypatch.setattr(router, "warn", lambda _, *texts, then="": warnings.extend(texts))
    *_, report, _, _ = route(world, expert_encoder="other_loras.safetensors")
    assert "it was trained with other LoRAs" in report
    assert any("other LoRA files than these" in text for text in warnings)


def test_an_encoder_of_other_layers_is_an_error(world, folder):
    layers = {role: paths[:-2] for role, paths in layers_of(world).items()}
    encoder(world, folder / "short.safetensors", layers=layers)
    missing = layers_of(world)["content"][-2]
    with pytest.raises(CraftError, match=rf"short.safetensors: .* 2 layers .*{re.escape(missing)}"):
        route(world, expert_encoder="short.safetensors")


def test_an_encoder_for_another_text_encoder_is_an_error(world, folder):
    encoder(world, folder / "wide.safetensors", text_width=768)
    with pytest.raises(CraftError, match="wide.safetensors: .*trained on 768"):
        route(world, expert_encoder="wide.safetensors")


def test_a_phrase_is_the_clips_pooled_output_whatever_stands_around_it(world):
    pooled = world.encode("a sks animal")[0][1]["pooled_output"][0]
    found = adapter.phrases(world.clip, parse(PROMPT))
    assert torch.equal(found.content, pooled.float())
    assert found.style is not None and not torch.equal(found.content, found.style)
    assert adapter.phrases(world.clip, parse("a dog")).content is None


class WithoutPooled:
    """The small world's CLIP as a text encoder that pools nothing, or zeros."""

    def __init__(self, clip, pooled):
        self.clip, self.pooled = clip, pooled

    def tokenize(self, text):
        return self.clip.tokenize(text)

    def encode_from_tokens(self, tokens, return_pooled):
        assert return_pooled
        return self.clip.encode_from_tokens(tokens), self.pooled


@pytest.mark.parametrize("pooled", [None, torch.zeros(1, 8)])
def test_without_a_pooled_output_a_phrase_is_the_mean_of_its_own_tokens(world, pooled):
    hidden = world.clip.encode_from_tokens(world.clip.tokenize("a sks animal"))[0]
    found = adapter.embedding(WithoutPooled(world.clip, pooled), "a sks animal")
    torch.testing.assert_close(found, hidden[1:4].mean(0))  # start, three words, end and padding


def test_the_loader_lists_checks_and_stamps_its_files(world, folder):
    encoder(world, folder / "one.safetensors")
    assert "one.safetensors" in adapter.encoder_files()
    assert LoadExpertEncoder.validate_inputs("one.safetensors") is True
    assert LoadExpertEncoder.validate_inputs(None) is True
    assert "no expert encoder file 'two" in LoadExpertEncoder.validate_inputs("two.safetensors")
    write_lora(folder / "lora.safetensors", factors(FILES[0], world))
    assert "no expert encoder file" in LoadExpertEncoder.validate_inputs("lora.safetensors")
    assert LoadExpertEncoder.execute("one.safetensors").result == ("one.safetensors",)
    before = LoadExpertEncoder.fingerprint_inputs("one.safetensors")
    encoder(world, folder / "one.safetensors", concepts=[])
    assert LoadExpertEncoder.fingerprint_inputs("one.safetensors") != before


def picture(content, style):
    render = importlib.import_module("craft_small_world.world.render")
    drawn = render.render(content, style, seed=0, pose=render.Pose())
    return torch.from_numpy(drawn).float()[None] / 255.0


def train(world, **changes):
    """The node, as the host calls it: lists everywhere."""
    (branches,) = LoadLoRABranch.execute(small.CONTENT, "content", 1.0).result
    (branches,) = LoadLoRABranch.execute(small.STYLE, "style", 1.0, branches=branches).result
    knobs = {p.name: p.default for p in TRAINING["expert_encoder"].parameters}
    settings = {
        **knobs, "branches": branches, "layer_sets": "all", "save_name": "expert_encoder/encoder",
        "steps": 2, "warmup": 0, "precision": "fp32", "gradient_checkpointing": False,
        "resume": False, "allow_unmatched": False, **changes,
    }  # fmt: skip
    learned = importlib.import_module("craft_small_world.train.references").CONTENT[0]
    own = settings.pop("images", [picture(learned, "flat")]), settings.pop("captions", [OWN])
    other = settings.pop("other_images", ()), settings.pop("other_captions", ())
    lists = {
        name: {"layer_sets": [value]} if name == "layer_sets" else [value]
        for name, value in settings.items()
    }
    return TrainEncoder.execute(
        [world.model], [world.clip], [world.vae], *own, *other, **lists
    ).result


def test_a_trained_encoder_is_a_file_that_the_router_takes(world):
    with torch.inference_mode():  # as the host runs its nodes
        name, losses, report = train(
            world, layer_sets="b-lora", precision="auto", gradient_checkpointing=True
        )
    assert len(losses["loss"]) == 2
    assert name in adapter.encoder_files() and "Saved" in report
    made, metadata = read_encoder(adapter.encoder_path(name))
    assert made.concepts == (adapter.concept(FILES),)
    assert metadata["steps_done"] == "2" and metadata["craft_layer_set"] == "b-lora"
    *_, routed, _, _ = route(world, expert_encoder=name, layer_sets=BLOCKS)
    assert "these LoRAs are its own" in routed
    with pytest.raises(CraftError, match="layer set: b-lora"):
        route(world, expert_encoder=name)  # all layers


def test_text_encoder_keys_that_match_nothing_are_refused_in_training_as_in_use(world, folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    stem = "lora_te2_text_model_encoder_layers_99_mlp_fc1"
    lora |= {f"{stem}.lora_{end}.weight": torch.zeros(2, 2) for end in ("down", "up")}
    safetensors.torch.save_file(lora, folder / "text.safetensors")
    (branches,) = LoadLoRABranch.execute("text.safetensors", "content", 1.0).result
    with pytest.raises(CraftError) as training:
        train(world, branches=branches)
    with pytest.raises(CraftError) as use:
        route(world, style="none", content="text.safetensors")
    assert str(training.value) == str(use.value) and "encoder_layers_99" in str(use.value)
    *_, report = train(world, branches=branches, allow_unmatched=True, steps=1)
    assert "Matches nothing: text.safetensors: 2 keys" in report


def test_a_lora_of_strength_0_moves_no_layer_set_in_training_as_in_use(world):
    """auto compares the LoRAs with a strength."""

    def acting(text):
        return re.findall(r"(?:scales|acts) on (\d+) of", text)

    off = BranchFile(small.CONTENT, "style", 0.0)
    pair = BranchFile(small.CONTENT, "content", 1.0), BranchFile(small.STYLE, "style", 1.0)
    *_, alone = train(world, branches=pair, layer_sets="auto", steps=1)
    *_, beside = train(world, branches=(*pair, off), layer_sets="auto", steps=1)
    assert acting(beside)[:2] == acting(alone)
    menu = {"layer_sets": "auto"}
    *_, routed, _, _ = route(world, extra_branches=(off,), layer_sets=menu)
    assert acting(routed)[:2] == acting(alone)


def test_same_seed_same_encoder_with_or_without_checkpointing(world):
    names = [train(world, seed=seed, gradient_checkpointing=c)[0] for seed, c in
             ((1, False), (1, False), (2, False), (1, True))]  # fmt: skip
    contents = [Path(adapter.encoder_path(name)).read_bytes() for name in names]
    assert contents[0] == contents[1] != contents[2]
    plain, checkpointed = (load_file(adapter.encoder_path(names[i])) for i in (0, 3))
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-3, atol=1e-4)


def test_foreign_phrases_damp_the_lora_even_those_it_was_not_taught(world):
    """App. B.3, type I: a content other than the trained one."""
    name, *_ = train(
        world, steps=100, learning_rate=1e-2, layer_sets="b-lora", neutral_weight=1e-4,
        other_images=[picture(*pair) for pair in OTHERS],
        other_captions=[f"<c>a {c}</c> in {s} style" for c, s in OTHERS],
    )  # fmt: skip
    made, _ = read_encoder(adapter.encoder_path(name))

    def mean(phrase):
        asked = adapter.phrases(world.clip, parse(f"<c>{phrase}</c>"))
        found = made.scales(made.concepts[0], asked)["content"].values()
        return sum(found) / len(found)

    own = mean("a sks animal")
    assert mean("a cat") < 0.7 * own
    assert mean("a rocket") < 0.7 * own


def test_the_model_and_the_lora_files_stay_as_they_are(world):
    weights = {k: v.clone() for k, v in world.model.model.state_dict().items()}
    path = folder_paths.get_full_path("loras", small.CONTENT)
    before = Path(path).read_bytes()
    train(world)
    after = world.model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert Path(path).read_bytes() == before


def test_text_encoder_parts_of_the_loras_are_heard_in_training(world, folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape[0]
    generator = torch.Generator().manual_seed(0)
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width, generator=generator)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2, generator=generator)
    safetensors.torch.save_file(lora, folder / "with_text.safetensors")
    (with_text,) = LoadLoRABranch.execute("with_text.safetensors", "content", 1.0).result
    (without,) = LoadLoRABranch.execute(small.CONTENT, "content", 1.0).result
    losses = [train(world, steps=1, branches=b)[1]["loss"] for b in (with_text, without)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branches": ()}, "No LoRA is connected"),
        ({"captions": ["a sks animal in flat style"]}, "switches no LoRA on"),
        ({"layer_sets": "craft-paper", "branches": (BranchFile(small.CONTENT, "content", 1.0,
          "input_blocks.77"),)}, "input_blocks.77"),
        ({"save_name": "../out"}, "save_as"),
    ],
)  # fmt: skip
def test_mistakes_are_told(world, changes, message):
    with pytest.raises(CraftError, match=message):
        train(world, **changes)


def test_a_node_that_tells_knows_its_place_in_the_page():
    assert "unique_id" in TrainEncoder.INPUT_TYPES()["hidden"]


def test_new_sockets_come_after_the_routers_own(world):
    inputs = Router.INPUT_TYPES()
    assert list(inputs["optional"])[-5:] == [
        "expert_encoder", "whole_sigmas", "second_model", "second_content_lora",
        "second_style_lora",
    ]  # fmt: skip
    assert inputs["optional"]["expert_encoder"][0] == "CRAFT_ENCODER"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def routed_prompt(expert, **further):
    """An API prompt that samples the small world with the encoder node `expert` gives."""
    latent = {"model": ["router", 0], "positive": ["router", 1], "negative": ["negative", 0]}
    return {
        "world": node("CheckpointLoaderSimple", ckpt_name=small.CHECKPOINT),
        "expert": expert,
        "router": node(
            "CRAFTRouter", model=["world", 0], clip=["world", 1], prompt=PROMPT,
            content_lora=small.CONTENT, style_lora=small.STYLE, content_strength=1.0,
            style_strength=1.0, layer_sets="b-lora", method="craft", expert_encoder=["expert", 0],
        ),
        "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampled": node(
            "KSampler", **latent, latent_image=["latent", 0], seed=1, steps=2, cfg=3.0,
            sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["world", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="encoder"),
        **further,
    }  # fmt: skip


def test_the_trainers_socket_and_its_file_give_the_same_picture_in_a_server(live_server):
    knobs = {p.name: p.default for p in TRAINING["expert_encoder"].parameters}
    trainer = node(
        "CRAFTTrainEncoder", **{**knobs, "steps": 2, "learning_rate": 0.05},
        model=["world", 0], clip=["world", 1], vae=["world", 2], images=["picture", 0],
        captions=PROMPT, branches=["style", 0], layer_sets="b-lora", save_name="live/encoder",
        precision="fp32", gradient_checkpointing=True, resume=False,
    )  # fmt: skip
    content = node("CRAFTLoadLoRABranch", lora=small.CONTENT, role="content", strength=1.0)
    style = node("CRAFTLoadLoRABranch", lora=small.STYLE, role="style", strength=1.0)
    style["inputs"]["branches"] = ["content", 0]
    picture = node("EmptyImage", width=64, height=64, batch_size=1, color=0x2040FF)
    further = {"picture": picture, "content": content, "style": style}
    trained = live_server.run(routed_prompt(trainer, **further))
    name = str(Path("live") / "encoder_00001_.safetensors")
    loaded = live_server.run(routed_prompt(node("CRAFTLoadExpertEncoder", encoder=name)))
    plain = routed_prompt({})
    del plain["expert"], plain["router"]["inputs"]["expert_encoder"]
    (a,), (b,), (c,) = map(live_server.images, (trained, loaded, live_server.run(plain)))
    assert (a == b).all() and (a != c).any()
