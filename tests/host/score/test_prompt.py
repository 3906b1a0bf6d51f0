"""Likeness to the prompt in the real host, against transformers' own CLIP on the same weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import comfy.clip_vision
import comfy.sd1_clip
import folder_paths
import pytest
import safetensors.torch
import torch
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.comfy_adapter.score.csd import load_csd
from craft_lora_pack.comfy_adapter.score.scoring import one_each
from craft_lora_pack.comfy_adapter.score.text_encoder import load_text_encoder
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation import mean_score
from craft_lora_pack.nodes.score import ContentStyleScore, LoadTextEncoder
from laws.clip_text import as_open_clip
from laws.csd_release import csd_weights, prepared, write_release
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

SIDE, WIDTH = 16, 64
PLAIN = "a photo of sks dog in watercolor style"
MARKED = "a photo of <c>sks dog</c> in <s>watercolor style</s>"
LONG = "a dog and a very red car by the sea " * 12
VISION = {
    "hidden_size": 64, "image_size": SIDE, "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_channels": 3, "patch_size": 4, "intermediate_size": 128,
}  # fmt: skip


def transformers_clip(layers: int = 2, width: int = WIDTH, act: str = "quick_gelu") -> CLIPModel:
    """Random, in numbers that half precision has, in which the host may hold them."""
    text = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "intermediate_size": 4 * width, "eos_token_id": 49407, "hidden_act": act,
    }  # fmt: skip
    torch.manual_seed(layers * width)
    config = CLIPConfig(
        text_config=text, vision_config={**VISION, "hidden_act": act}, projection_dim=width
    )
    made = CLIPModel(config).eval()
    with torch.no_grad():
        for name, one in made.named_parameters():
            if one.ndim > 1:  # so small as it begins, all texts have nearly one vector
                one *= 8 if "embedding" in name else 3
            one.copy_(one.half().float())
    return made


def picture_tower(model: CLIPModel) -> comfy.clip_vision.ClipVisionModel:
    """As Load CLIP Vision makes one of the same file, which reads files of published sizes only."""
    config = {
        **VISION, "hidden_act": model.config.vision_config.hidden_act,
        "model_type": "clip_vision_model", "projection_dim": model.config.projection_dim,
    }  # fmt: skip
    made = comfy.clip_vision.ClipVisionModel(_as_file(config))
    weights = model.state_dict()
    missing, _ = made.load_sd({name: weights[name] for name in made.get_sd()})
    assert not missing
    return made


def _as_file(config: dict) -> str:
    """Older ComfyUI takes a file only."""
    file = Path(folder_paths.get_temp_directory(), "tiny_clip_vision.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config))
    return str(file)


@dataclass
class Whole:
    """A CLIP: transformers' model, its file in the host's clip_vision folder, its picture tower."""

    model: CLIPModel
    path: Path
    vision: comfy.clip_vision.ClipVisionModel

    def cosines(self, pictures: torch.Tensor, prompts: list[str]) -> list[float]:
        """By transformers; pictures of the tower's size in steps of 1/255."""
        tokenizer = CLIPTokenizer.from_pretrained(
            Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
        )
        tokens = tokenizer(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            found = self.model(pixel_values=prepared(pictures), input_ids=tokens["input_ids"])
        return (found.image_embeds * found.text_embeds).sum(1).tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    return whole_clip(tmp_path_factory.mktemp("clip"), transformers_clip())


def whole_clip(folder: Path, model: CLIPModel) -> Whole:
    path = folder / "whole.safetensors"
    safetensors.torch.save_file({k: v.half() for k, v in model.state_dict().items()}, path)
    return Whole(model, path, picture_tower(model))


@pytest.fixture
def placed(whole, tmp_path, monkeypatch) -> Path:
    """Folders that the host lists as models/text_encoders and models/clip_vision; in the second one
    the whole CLIP."""
    paths = {**folder_paths.folder_names_and_paths}
    for kind in ("text_encoders", "clip_vision"):
        (tmp_path / kind).mkdir()
        paths[kind] = ([str(tmp_path / kind)], folder_paths.supported_pt_extensions)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", paths)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    shutil.copy(whole.path, tmp_path / "clip_vision")
    return tmp_path


@pytest.fixture(scope="module")
def encoder(whole):
    with torch.inference_mode():
        return load_text_encoder(whole.path)


def pictures(count: int, seed: int) -> torch.Tensor:
    """In steps of 1/255, as the host rounds them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, SIDE, SIDE, 3), generator=generator) / 255


def run(images, vision, **others):
    with torch.inference_mode():
        report, table, data = ContentStyleScore.execute(
            images, [vision], **{k: v if isinstance(v, list) else [v] for k, v in others.items()}
        ).result
    return report, table, json.loads(data)


def column(data: dict, measure: str = "text") -> list[float]:
    return [one[measure] for one in data["pictures"]]


@pytest.mark.parametrize(
    ("layers", "act", "prompt"),
    [(2, "quick_gelu", PLAIN), (23, "gelu", PLAIN), (31, "gelu", PLAIN), (2, "quick_gelu", LONG)],
    ids=["as ViT-L", "as ViT-H", "as ViT-bigG", "longer than 77 tokens"],
)
def test_text_is_the_cosine_of_transformers_own_clip(tmp_path, layers, act, prompt):
    given = whole_clip(tmp_path, transformers_clip(layers, act=act))
    with torch.inference_mode():
        encoder = load_text_encoder(given.path)
    images = pictures(3, 0)
    prompts = [prompt, "two cats", "x"]
    assert encoder.name.startswith(f"CLIP's text tower ({layers} layers of width 64, projected, ")
    _, _, data = run([images], given.vision, text_encoder=encoder, prompt=prompts)
    expected = given.cosines(images, prompts)
    assert column(data) == pytest.approx(expected, abs=2e-5)
    assert max(expected) - min(expected) > 0.01  # texts and pictures are told apart


def test_a_tower_of_vit_ls_own_size_is_the_same(tmp_path):
    given = whole_clip(tmp_path, transformers_clip(12, 768))
    with torch.inference_mode():
        encoder = load_text_encoder(given.path)
    images = pictures(2, 1)
    _, _, data = run([images], given.vision, text_encoder=encoder, prompt=MARKED)
    assert column(data) == pytest.approx(given.cosines(images, [PLAIN, PLAIN]), abs=2e-5)


def test_openclips_spelling_is_the_same_encoder(whole, encoder, tmp_path):
    weights = safetensors.torch.load_file(whole.path)
    safetensors.torch.save_file(as_open_clip(weights), tmp_path / "open.safetensors")
    with torch.inference_mode():
        other = load_text_encoder(tmp_path / "open.safetensors")
        assert other.name == encoder.name
        assert torch.equal(other.features([PLAIN]), encoder.features([PLAIN]))
        weights["text_projection.weight"] = weights["text_projection.weight"].T.contiguous()
        safetensors.torch.save_file(weights, tmp_path / "other.safetensors")
        assert load_text_encoder(tmp_path / "other.safetensors").name != encoder.name


def test_markers_and_weights_of_words_do_not_count(whole, encoder):
    images = pictures(2, 2)
    _, _, plain = run([images], whole.vision, text_encoder=encoder, prompt=PLAIN)
    _, _, marked = run([images], whole.vision, text_encoder=encoder, prompt=MARKED)
    assert marked == plain
    weighted = PLAIN.replace("sks dog", "(sks dog:1.5)")
    _, _, found = run([images], whole.vision, text_encoder=encoder, prompt=weighted)
    assert column(found) == pytest.approx(column(plain), abs=1e-6)


def test_a_prompt_is_of_all_pictures_of_a_batch_or_of_a_picture(whole, encoder):
    batches = [pictures(2, 0), pictures(1, 1)]
    every = torch.cat(batches)
    words = ["a dog", "two red cats", "the sea"]

    def scored(*prompts):
        return column(run(batches, whole.vision, text_encoder=encoder, prompt=[*prompts])[2])

    def expected(*prompts):
        return pytest.approx(whole.cosines(every, list(prompts)), abs=2e-5)

    assert scored(words[0]) == expected(*[words[0]] * 3)
    assert scored(*words[:2]) == expected(words[0], words[0], words[1])
    assert scored(*words) == expected(*words)
    lines = "\n".join(words)  # a prompt may have several lines
    assert scored(lines) == expected(*[lines] * 3)
    with pytest.raises(CraftError, match="There are 4 prompts for 3 pictures in 2 batches"):
        scored(*words, "four")
    assert one_each(["a", "b"], [2, 1], "prompts") == ("a", "a", "b")


def test_the_other_scores_are_what_they_are_without_a_prompt(whole, encoder):
    images = [pictures(3, 0)]
    given = {"content_reference": pictures(1, 1), "style_reference": pictures(1, 2)}
    before, _, old = run(images, whole.vision, **given)
    report, _, new = run(images, whole.vision, **given, text_encoder=encoder, prompt=MARKED)
    assert list(new["pictures"][0])[1:] == ["content", "style", "harmonic mean", "text"]
    assert [{k: v for k, v in one.items() if k != "text"} for one in new["pictures"]] == (
        old["pictures"]
    )
    assert [one for one in new["means"] if one["measure"] != "text"] == old["means"]
    assert new["likeness_of_references"] == old["likeness_of_references"]
    assert {role: new["encoders"][role] for role in old["encoders"]} == old["encoders"]
    assert old.keys() == new.keys() and "text" not in before
    assert set(before.splitlines()[:4]) <= set(report.splitlines())


def test_report_table_and_json_have_text_with_its_encoders_and_interval(whole, encoder):
    images = pictures(4, 3)
    report, table, data = run([images], whole.vision, text_encoder=encoder, prompt=PLAIN)
    assert data["encoders"].keys() == {"text"}
    made_by = data["encoders"]["text"]
    assert re.fullmatch(
        r"CLIP's text tower \(2 layers of width 64, projected, weights [0-9a-f]{8}\) for "
        r"prompts, CLIP \(2 layers of width 64, projected, weights [0-9a-f]{8}\) for pictures",
        made_by["name"],
    )
    assert made_by["preprocessing"] == (
        "16 x 16, cropped in the middle; prompts without markers, the first 77 tokens"
    )
    (mean,) = data["means"]
    expected = mean_score("text", column(data), {"pictures": range(4)}, *made_by.values())
    assert (mean["low"], mean["high"]) == (expected.low, expected.high) != (None, None)
    assert (mean["encoder"], mean["preprocessing"]) == tuple(made_by.values())
    assert f"text is scored by {made_by['name']}, pictures {made_by['preprocessing']}" in report
    assert "text has a scale of its own" in report and "Longer than" not in report
    assert f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in report
    _, _, named = run(
        [images], whole.vision, text_encoder=encoder, prompt=PLAIN, names=list("aabb")
    )
    assert [one["name"] for one in named["means"]] == ["a", "b"]
    small = run([images], whole.vision, content_reference=images[:1])[1]
    assert table.ndim == small.ndim == 4


def test_the_report_says_what_of_prompts_does_not_count(whole, encoder):
    prompts = [LONG, PLAIN, LONG, f"<c>{LONG}</c> two"]
    report, _, _ = run([pictures(4, 0)], whole.vision, text_encoder=encoder, prompt=prompts)
    assert "Longer than the first 77 tokens, which alone count: 2 prompts" in report


def test_an_embedding_is_read_as_the_host_reads_one(whole, tmp_path, monkeypatch):
    paths = {**folder_paths.folder_names_and_paths, "embeddings": ([str(tmp_path)], {".pt"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", paths)
    with torch.inference_mode():
        encoder = load_text_encoder(whole.path)
        vectors = encoder.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
        (tokens,) = encoder.clip.tokenize("dog")["l"]
        torch.save({"emb": vectors[tokens[1][0]][None].float().clone()}, tmp_path / "as_dog.pt")
        found = encoder.features(["a embedding:as_dog", "a dog", "a"])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    torch.save({"emb": torch.full((1, WIDTH), torch.nan)}, tmp_path / "broken.pt")
    with pytest.raises(CraftError, match="The prompt of picture 2 has no finite features"):
        run([pictures(2, 0)], whole.vision, text_encoder=encoder,
            prompt=["a dog", "a embedding:broken"])  # fmt: skip


REFUSED = {
    "no text encoder": ({"text_encoder": []}, "prompt is connected, and text_encoder is not"),
    "no prompt": ({"prompt": []}, "text_encoder is connected, and prompt is not"),
    "two encoders": ({"text_encoder": [None, None]}, "text_encoder got 2 values"),
    "an empty prompt": ({"prompt": ["a dog", " "]}, "Prompt 2 is empty"),
    "a marker that nothing closes": ({"prompt": ["a dog</c>"]}, "</c>"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_or_empty_is_named_in_three_parts(whole, encoder, name):
    changed, said = REFUSED[name]
    given = {"text_encoder": [encoder], "prompt": [PLAIN], **changed}
    with pytest.raises(CraftError, match=re.escape(said)) as caught:
        run([pictures(2, 0)], whole.vision, **given)
    assert len(str(caught.value).split(". ")) >= 3


def test_only_clips_projected_features_are_compared_with_a_prompt(whole, encoder, tmp_path):
    write_release(tmp_path / "csd.pth", csd_weights())
    with torch.inference_mode():
        csd = load_csd(tmp_path / "csd.pth")
    siglip = {**VISION, "hidden_act": "gelu", "model_type": "siglip_vision_model"}
    unprojected = {**siglip, "model_type": "clip_vision_model"}
    others = [comfy.clip_vision.ClipVisionModel(_as_file(one)) for one in (siglip, unprojected)]
    given = {"text_encoder": encoder, "prompt": PLAIN}
    for vision in (*others, csd["content"]):
        with pytest.raises(
            CraftError, match="Prompts cannot be compared with pictures by "
        ) as error:
            run([pictures(1, 0)], vision, **given)
        assert "CLIP alone has texts and pictures in one space" in str(error.value)
        assert "Connect to clip_vision" in str(error.value)
    images = pictures(2, 0)
    both = {"style_reference": images[:1], "style_clip_vision": csd["style"]}
    _, _, data = run([images], whole.vision, **given, **both)
    assert list(data["pictures"][0])[1:] == ["style", "content leak", "text"]
    assert column(data) == column(run([images], whole.vision, **given)[2])
    _, _, alone = run([images], whole.vision, **given, style_clip_vision=csd["style"])
    assert alone["encoders"].keys() == {"text"}


def test_two_widths_are_named_and_are_not_of_one_clip(encoder, tmp_path):
    wider = picture_tower(transformers_clip(2, 128))
    with pytest.raises(CraftError) as error:
        run([pictures(1, 0)], wider, text_encoder=encoder, prompt=PLAIN)
    said = str(error.value)
    assert "Vectors of texts have the width 64, those of pictures 128" in said
    assert "Both must be of one CLIP" in said
    assert "Choose text_encoder and clip_vision of the same CLIP" in said


def test_no_reference_and_no_prompt_is_the_error_that_it_was(whole):
    with pytest.raises(CraftError, match="There is no reference"):
        run([pictures(1, 0)], whole.vision)


def test_new_inputs_come_last_so_that_saved_workflows_stay_as_they_are():
    inputs = [one.id for one in ContentStyleScore.define_schema().inputs]
    assert inputs == [
        "images", "clip_vision", "content_reference", "style_reference", "style_clip_vision",
        "names", "crop", "text_encoder", "prompt",
    ]  # fmt: skip


def test_the_node_lists_both_folders_and_refuses_other_files_before_a_run(placed, whole):
    weights = safetensors.torch.load_file(whole.path)
    del weights["text_projection.weight"]
    safetensors.torch.save_file(weights, placed / "text_encoders" / "clip_l.safetensors")
    named = ["clip_l.safetensors", "whole.safetensors"]
    assert LoadTextEncoder.define_schema().inputs[0].options == named
    assert LoadTextEncoder.validate_inputs("whole.safetensors") is True
    assert LoadTextEncoder.validate_inputs(None) is True
    said = LoadTextEncoder.validate_inputs("clip_l.safetensors")
    assert "clip_l.safetensors cannot score prompts: it has no text_projection" in said
    assert "It takes CLIP's text tower" in said and "Choose the file of a whole CLIP" in said
    said = LoadTextEncoder.validate_inputs("gone.safetensors")
    assert (
        "There is no file 'gone.safetensors' in models/text_encoders and models/clip_vision" in said
    )
    with torch.inference_mode():
        (loaded,) = LoadTextEncoder.execute("whole.safetensors").result
        assert loaded.name.startswith("CLIP's text tower (2 layers of width 64")
    before = LoadTextEncoder.fingerprint_inputs("whole.safetensors")
    assert before == LoadTextEncoder.fingerprint_inputs("whole.safetensors")
    shutil.copy(whole.path, placed / "clip_vision" / "whole.safetensors")
    assert LoadTextEncoder.fingerprint_inputs("whole.safetensors") != before


def test_a_name_that_two_files_have_is_refused(placed, whole):
    other = placed / "text_encoders" / "whole.safetensors"
    os.link(placed / "clip_vision" / "whole.safetensors", other)  # one file, listed twice
    assert LoadTextEncoder.define_schema().inputs[0].options == ["whole.safetensors"]
    assert LoadTextEncoder.validate_inputs("whole.safetensors") is True
    before = LoadTextEncoder.fingerprint_inputs("whole.safetensors")
    other.unlink()
    shutil.copy(whole.path, other)
    said = LoadTextEncoder.validate_inputs("whole.safetensors")
    assert "There are two files 'whole.safetensors'" in said and "Rename one of them" in said
    assert LoadTextEncoder.fingerprint_inputs("whole.safetensors") != before


def test_without_a_file_the_menu_says_where_it_belongs(placed, monkeypatch):
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (placed / "clip_vision" / "whole.safetensors").unlink()
    options = LoadTextEncoder.define_schema().inputs[0].options
    assert options == ["(none in models/text_encoders and models/clip_vision)"]


def test_a_server_loads_the_file_and_says_what_goes_wrong(live_server, whole):
    """Load CLIP Vision takes no tower as small as these: CSD's stands there, and is refused."""
    folder = live_server.server.folder / "models" / "clip_vision"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(whole.path, folder / "small_clip.safetensors")
    write_release(folder / "csd_beside.pth", csd_weights())
    prompt = {
        "1": {"class_type": "CRAFTLoadTextEncoder",
              "inputs": {"text_encoder": "small_clip.safetensors"}},
        "2": {"class_type": "CRAFTLoadCSD", "inputs": {"csd": "csd_beside.pth"}},
        "3": {"class_type": "EmptyImage",
              "inputs": {"width": 24, "height": 16, "batch_size": 1, "color": 0x2040FF}},
        "4": {"class_type": "PrimitiveString", "inputs": {"value": MARKED}},
        "5": {"class_type": "CRAFTScore", "inputs": {
            "images": ["3", 0], "clip_vision": ["2", 1], "content_reference": ["3", 0],
            "text_encoder": ["1", 0], "prompt": ["4", 0]}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}},
        "7": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }  # fmt: skip
    with pytest.raises(RemoteError, match="Prompts cannot be compared with pictures by CSD"):
        live_server.run(prompt)
    del prompt["6"], prompt["5"]
    (shown,) = live_server.run(prompt).outputs["7"]["text"]
    assert "CLIP's text tower (2 layers of width 64, projected, weights " in shown
    weights = safetensors.torch.load_file(whole.path)
    del weights["text_projection.weight"]
    safetensors.torch.save_file(weights, folder / "without.safetensors")
    prompt["1"]["inputs"]["text_encoder"] = "without.safetensors"
    with pytest.raises(RemoteError, match="without.safetensors cannot score prompts"):
        live_server.run(prompt)
