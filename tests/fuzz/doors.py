"""Every place where bytes or texts of others come in: how they are read, and what is sound there.

A door reads any bytes, or raises CraftError, or RemoteError where they are a server's.
"""

from __future__ import annotations

import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from craft_lora_pack.cli.inspect import header as inspected
from craft_lora_pack.cli.queue.journal import NAME, Journal
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.cli.queue.saving import SIGNATURE, with_job
from craft_lora_pack.client import answers, client
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.facts import facts_of, model_uses
from craft_lora_pack.client.loras.announced import BODY, announced
from craft_lora_pack.client.progress import RunProgress
from craft_lora_pack.client.to_page.showing import showing
from craft_lora_pack.client.workflow import read_both
from craft_lora_pack.craft_core.encoder.file import read_encoder, write_encoder
from craft_lora_pack.craft_core.encoder.network import Concept, ExpertEncoder
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation.encoders.csd_file import read_csd
from craft_lora_pack.craft_core.evaluation.encoders.text_tower_file import read_text_tower
from craft_lora_pack.craft_core.fusion.lines import parse_lines
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.lora import read_lora
from craft_lora_pack.craft_core.lora.header.layers import read_lora_header
from craft_lora_pack.craft_core.lora.storage import read_tensors
from craft_lora_pack.craft_core.lora.text_encoder import merge_text_encoders
from craft_lora_pack.craft_core.lora.without_model import read_together
from craft_lora_pack.craft_core.presets import SHIPPED, node_values
from craft_lora_pack.craft_core.projection import (
    Basis,
    LayerBasis,
    read_basis,
    read_header,
    write_basis,
)
from craft_lora_pack.craft_core.routing.layer_sets import resolve
from craft_lora_pack.craft_core.routing.lora_rows import read_rows
from craft_lora_pack.craft_core.routing.markers import parse
from craft_lora_pack.craft_core.schedule.schedule import Schedule, sample_curve
from craft_lora_pack.craft_core.training.loop import Pace, Training, state_metadata
from fake_comfyui import OBJECT_INFO, PROMPT
from hypothesis import strategies as st
from laws.clip_text import text_weights
from laws.csd_release import csd_weights, write_release
from mutations import SoundFile, cut_up, damaged_file, damaged_json, damaged_text
from unet_layers import sdxl_layers

LAYERS = {
    path: tuple(min(size, 8) for size in shape)  # small, so that what fails is soon made smaller
    for path, shape in itertools.islice(sdxl_layers().items(), 60)
}
LINEAR, (OUT, IN) = next((p, s) for p, s in LAYERS.items() if p.endswith("to_q"))
KNOWN = (CraftError, RemoteError)


@dataclass(frozen=True)
class Door:
    """read: takes bytes, in a folder where it may write. damaged: makes such bytes. sound: those of
    which it makes them; they are read."""

    read: Callable[[bytes, Path], Any]
    damaged: st.SearchStrategy[bytes]
    sound: Sequence[bytes] = ()


def _file(content: bytes, folder: Path, suffix: str = ".safetensors") -> Path:
    path = folder / f"given{suffix}"
    path.write_bytes(content)
    return path


def _as_text(read: Callable[[str], Any]) -> Callable[[bytes, Path], Any]:
    def door(content: bytes, _: Path) -> Any:
        try:
            text = content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        return read(text)

    return door


# Files of tensors

STEM = f"diffusion_model.{LINEAR}"
TEXT_STEM = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
PEFT = {
    "r": 2, "lora_alpha": 4, "use_rslora": True, "use_dora": False,
    "alpha_pattern": {"to_q": 2, "^(a|b).*[aeiou]k{2}": 1}, "rank_pattern": {".*to_k": 2},
    "target_modules": ["to_q", "to_k"], "text_encoder.r": 2,
}  # fmt: skip
LORAS = {
    "lora": {f"{STEM}.lora_A.weight": (2, IN), f"{STEM}.lora_B.weight": (OUT, 2),
             f"{STEM}.alpha": ()},
    "kohya": {f"lora_unet_{LINEAR.replace('.', '_')}.lora_down.weight": (2, IN),
              f"lora_unet_{LINEAR.replace('.', '_')}.lora_up.weight": (OUT, 2),
              f"{TEXT_STEM}.lora_down.weight": (2, 8), f"{TEXT_STEM}.lora_up.weight": (8, 2),
              f"{TEXT_STEM}.alpha": ()},
    "dora": {f"{STEM}.lora_A.weight": (2, IN), f"{STEM}.lora_B.weight": (OUT, 2),
             f"{STEM}.dora_scale": (OUT, 1)},
    "loha": {f"{STEM}.hada_w1_a": (OUT, 2), f"{STEM}.hada_w1_b": (2, IN),
             f"{STEM}.hada_w2_a": (OUT, 2), f"{STEM}.hada_w2_b": (2, IN)},
    "lokr": {f"{STEM}.lokr_w1": (2, 2), f"{STEM}.lokr_w2_a": (OUT // 2, 2),
             f"{STEM}.lokr_w2_b": (2, IN // 2)},
    "oft": {f"{STEM}.oft_blocks": (4, OUT // 4, OUT // 4), f"{STEM}.alpha": ()},
    "glora": {f"{STEM}.a1.weight": (2, IN), f"{STEM}.a2.weight": (OUT, 2),
              f"{STEM}.b1.weight": (2, IN), f"{STEM}.b2.weight": (OUT, 2)},
    "ia3": {f"lora_unet_{LINEAR.replace('.', '_')}.weight": (OUT,),
            f"lora_unet_{LINEAR.replace('.', '_')}.on_input": ()},
    "difference": {f"{STEM}.diff": (OUT, IN), f"{STEM}.diff_b": (OUT,)},
}  # fmt: skip


LORA_FILES = [
    SoundFile.of_shapes(shapes, {"lora_adapter_metadata": PEFT, "ss_network_dim": "2"})
    for shapes in LORAS.values()
]


def _lora(content: bytes, folder: Path) -> None:
    path = _file(content, folder)
    _refused(lambda: _exercised(read_lora(path, LAYERS)))
    _refused(lambda: _exercised(read_lora(path, LAYERS, allow=True)))
    _refused(lambda: read_together([(path.name, *read_tensors(path))]))
    _refused(lambda: inspected._text("A", read_lora_header(path)))


def _exercised(file: Any) -> None:
    merge_text_encoders([file], [1.0], torch.float16)


def _refused(read: Callable[[], Any]) -> None:
    try:
        made = read()
        if isinstance(made, Iterator):
            list(made)
    except KNOWN:
        pass


def _peft(content: bytes, folder: Path) -> None:
    """The text of a LoRA's `lora_adapter_metadata`."""
    text = content.decode("utf-8", "replace")
    sound = SoundFile.of_shapes(LORAS["lora"], {"lora_adapter_metadata": text})
    read_lora(_file(sound.written(), folder), LAYERS)


def _made(write: Callable[[Path], Any]) -> SoundFile:
    """A file as the pack writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.safetensors"
        write(path)
        return SoundFile.of(path.read_bytes())


def _encoder(path: Path) -> None:
    concept = Concept(("a" * 64,), ("b" * 64,))
    write_encoder(path, ExpertEncoder({"content": ["a", "b"], "style": ["c"]}, 8, [concept]))


def _new_basis(path: Path) -> None:
    q = torch.linalg.qr(torch.randn(8, 2))[0]
    write_basis(path, Basis({"a": LayerBasis(q, q), "b": LayerBasis(q, None)}, "output"))


ENCODER, BASIS = _made(_encoder), _made(_new_basis)


class _Still:
    """A recipe whose parameter stays as it is."""

    def __init__(self) -> None:
        self.value = torch.ones(2, 2, requires_grad=True)

    def parameters(self) -> dict[str, torch.Tensor]:
        return {"a": self.value}

    def backward(self, draw: Any, share: float) -> dict[str, float]:
        loss = self.value.mean()
        (share * loss).backward()
        return {"loss": float(loss.detach())}

    def settings(self) -> dict[str, str]:
        return {}

    def write(self, path: Path, metadata: Any) -> None:
        """Nothing is learned."""


def _training() -> Training:
    return Training(_Still(), Pace(steps=4, rate=0.1))


def _new_state(path: Path) -> None:
    training = _training()
    training.advance()
    training.save(path)


STATE = _made(_new_state)


def _basis(content: bytes, folder: Path) -> None:
    path = _file(content, folder)
    _refused(lambda: read_header(path))
    read_basis(path)


CSD_WEIGHTS = csd_weights(layers=2, width=64)
CSD = SoundFile.of_shapes({name: tuple(one.shape) for name, one in CSD_WEIGHTS.items()}, {})


TEXT_TOWER = SoundFile.of_shapes({k: tuple(v.shape) for k, v in text_weights().items()}, {})


def _new_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.pth"
        write_release(path, CSD_WEIGHTS)
        return path.read_bytes()


CHECKPOINT = _new_checkpoint()


def _contents(checkpoint: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _with_list(listed: bytes) -> bytes:
    """The checkpoint with another pickle, which says what it holds."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, part in _contents(CHECKPOINT).items():
            file.writestr(name, listed if name.endswith("data.pkl") else part)
    return made.getvalue()


def _damaged_checkpoint() -> st.SearchStrategy[bytes]:
    (pickled,) = (part for name, part in _contents(CHECKPOINT).items() if name.endswith("data.pkl"))
    pieces = st.binary(max_size=8)
    return st.one_of(cut_up(pickled, pieces).map(_with_list), cut_up(CHECKPOINT, pieces))


def _state(content: bytes, folder: Path) -> None:
    path = _file(content, folder)
    _refused(lambda: state_metadata(path))
    training = _training()
    training.resume(path)
    training.run()
    assert training.recipe.value.isfinite().all(), "a state was resumed that ends in NaN"


# Texts


def _layer_sets(text: str) -> Any:
    return resolve(text, LAYERS)


def _curve(text: str) -> None:
    sample_curve(Schedule("curve", {"content": text, "style": "0 1"}), 21)


def _points(content: bytes, _: Path) -> None:
    """Points as a curve of the page is sent."""
    try:
        points = json.loads(content)
    except ValueError:
        return
    sample_curve(Schedule("curve", {"content": points, "style": points}), 21)


def _preset(content: bytes, _: Path) -> None:
    try:
        preset = answers.parse_json(content)
    except answers.NoJson:
        return
    node_values(preset)


def _methods(text: str) -> Any:
    return parse_lines(text, (), GUIDANCE)


# The command line


def _inputs() -> Inputs:
    return Inputs(PROMPT, OBJECT_INFO)


def _matrix(text: str) -> None:
    for name in ("seed", "prompt", "style", "method", "strength", "preview"):
        _refused(lambda name=name: jobs_of(_inputs(), [], [f"{name}={text}"], []))
    _refused(lambda: jobs_of(_inputs(), [text], [], []))
    _refused(lambda: jobs_of(_inputs(), [], [text], [text]))


def _matrix_file(content: bytes, folder: Path) -> None:
    for one in jobs_of(_inputs(), [], [f"prompt=@{_file(content, folder, '.txt')}"], []):
        assert one.key and one.name


def _workflow(content: bytes, folder: Path) -> None:
    prompt, page = read_both(_file(content, folder, ".json"), OBJECT_INFO)
    inputs = Inputs(prompt, OBJECT_INFO)
    (job,) = jobs_of(inputs, [], [], [])
    with_job(SIGNATURE + b" " * 40, "name", job)
    if page is not None:
        for axis in ("strength=0.5,0.6", "seed=1", "method=plain", "Keep.filename_prefix=y"):
            _refused(lambda axis=axis: _shown(inputs, page, axis))
    json.dumps(job.prompt).encode()
    assert job.key
    RunProgress(job.prompt).event("executing", {"node": next(iter(job.prompt), None)})
    _refused(lambda: jobs_of(inputs, ["strength=0.5"], ["seed=1..2"], ["a=Sampler.seed"]))


def _shown(inputs: Inputs, page: Any, axis: str) -> None:
    for one in jobs_of(inputs, [], [axis], []):
        showing(page, inputs.prompt, one.prompt, OBJECT_INFO)


def _journal(content: bytes, folder: Path) -> None:
    (folder / NAME).write_bytes(content)
    journal = Journal(folder, "me")
    (job,) = jobs_of(_inputs(), ["seed=1"], [], [])
    assert not journal.is_done(job) or journal.prompt_id(job) is None
    journal.done(job, [])
    assert Journal(folder, "me").is_done(job)


def _announced(content: bytes, folder: Path) -> None:
    """A request that sends a LoRA: what it names is inside the folder."""
    try:
        given = json.loads(content)
    except ValueError:
        return
    parts = [given.get(name) if isinstance(given, dict) else None for name in ("query", "headers")]
    query, headers = (
        {key: one if isinstance(one, str) else json.dumps(one) for key, one in part.items()}
        if isinstance(part, dict)
        else {}
        for part in parts
    )
    one = announced(query, headers)
    place = folder.joinpath(*one.parts)
    assert place.resolve().is_relative_to(folder.resolve()) and place != folder
    assert place.suffix.lower() == ".safetensors" and len(one.sha256) == 64
    assert one.size > 0 and one.length in (0, one.size)


def _server(content: bytes, _: Path) -> None:
    _refused(lambda: client.explain_refusal(content.decode("utf-8", "replace"), PROMPT))
    event = answers.event_of(content.decode("utf-8", "replace"))
    if event is not None:
        progress = RunProgress(PROMPT)
        progress.event(*event)
        assert 0 <= progress.share <= 1 and progress.title is not None
    try:
        value = answers.parse_json(content)
    except answers.NoJson:
        return
    _refused(lambda: jobs_of(Inputs(PROMPT, answers.known_nodes(value)), ["seed=1"], [], []))
    _refused(lambda: answers.waiting_ids(value))
    _refused(lambda: _files(answers.record_of(value, "a")))
    says = client.Client("http://a")
    says.ask = lambda *_: value
    _refused(lambda: facts_of(says, ["Router"], model_uses(PROMPT)))


def _files(record: answers.PromptRecord | None) -> Any:
    if record is None:
        return None
    if not record.succeeded:
        return client.explain_failure(record.messages)
    return client.PromptResult("a", record.outputs).all_files()


KEY = jobs_of(_inputs(), ["seed=1"], [], [])[0].key
LINES = [
    {"job": KEY, "parameters": {"seed": "1"}, "state": "queued", "prompt_id": "a-1", "client": "c"},
    {"job": KEY, "parameters": {"seed": "1"}, "state": "done", "files": ["a.png"]},
    {"job": "b", "parameters": {}, "state": "failed", "error": "why"},
]
PAGE = {
    "nodes": [
        {"id": 1, "type": "Router", "widgets_values": ["cat.safetensors", "ink.safetensors", 1.0,
         "mixed", 0.5, 0.0, "a cat"], "outputs": [{"name": "MODEL", "type": "MODEL"}]},
        {"id": 2, "type": "inner", "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
         "outputs": [{"name": "IMAGE", "type": "IMAGE"}], "widgets_values": []},
        {"id": 4, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 2}],
         "outputs": [{"name": "", "type": "*"}]},
        {"id": 3, "type": "Save", "widgets_values": ["x"], "mode": 0, "title": "Keep",
         "inputs": [{"name": "images", "type": "IMAGE", "link": 3},
                    {"name": "filename_prefix", "type": "STRING", "link": 4,
                     "widget": {"name": "filename_prefix"}}]},
        {"id": 6, "type": "Save", "widgets_values": ["x"], "mode": 4,
         "inputs": [{"name": "images", "type": "IMAGE", "link": 3}], "outputs": []},
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 4, 0, "IMAGE"], [3, 4, 0, 3, 0, "IMAGE"],
              [4, 1, 0, 3, 1, "STRING"]],
    "definitions": {"subgraphs": [{
        "id": "inner",
        "inputs": [{"name": "model", "linkIds": [1]}, {"name": "seed", "linkIds": [3]}],
        "nodes": [
            {"id": 5, "type": "Sampler", "widgets_values": [7, "fixed", True, 1.0],
             "inputs": [{"name": "model", "type": "MODEL", "link": 1},
                        {"name": "seed", "type": "INT", "link": 3, "widget": {"name": "seed"}}],
             "outputs": [{"name": "IMAGE", "type": "IMAGE"}]},
        ],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0},
            {"id": 3, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1},
            {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }]},
}  # fmt: skip
ANSWERS = (
    OBJECT_INFO,
    {"queue_running": [[0, "a", {}]], "queue_pending": [[1, "b", {}]]},
    {"a": {"status": {"status_str": "success", "messages": []}, "outputs":
           {"3": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}}},
    {"a": {"status": {"status_str": "error", "messages": [
        ["execution_error", {"node_id": "2", "node_type": "Sampler", "exception_message": "no"}],
    ]}}},
    {"prompt_id": "a", "error": {"message": "m"}, "node_errors": {"1": {"class_type": "Router",
     "errors": [{"message": "m", "details": "d"}]}}},
    {"type": "progress", "data": {"prompt_id": "a", "node": "2", "value": 1, "max": 2}},
    {"type": "execution_cached", "data": {"prompt_id": "a", "nodes": ["1", "2"]}},
)  # fmt: skip
ANNOUNCED = {
    "query": {"name": "style/ink.safetensors", "sha256": "0a" * 32, "bytes": "1000"},
    "headers": {"Content-Type": BODY, "Content-Length": "1000", "Host": "127.0.0.1:8188"},
}
PROMPT_TEXT = "a <c>sks dog</c> in <s>ink style</s>, by <c> and (a:1.2)"
LAYER_TEXT = (
    "# mine\ncontent: input_blocks.4.1.transformer_blocks.0..1.attn1\nstyle: input_blocks.0"
)
PRESET = {
    "method": {"method": "k_lora", "pattern": "s*"}, "layer_sets": LAYER_TEXT,
    "schedule": {"shape": "curve", "content": [[0, 1], [0.5, 0.2]], "content_floor": 0.5},
    "guidance": {"guidance": "role", "weight": 1.5}, "scores": [], "first": {"schedule": "cosine"},
}  # fmt: skip
ROWS = [
    {"lora": "dog.safetensors", "role": "content", "strength": 0.8, "on": True},
    {"lora": "ink.safetensors", "role": "style", "layers": LAYER_TEXT.split(": ")[-1],
     "second_lora": "none"},
]  # fmt: skip
METHOD_TEXT = "k_lora: pattern = s*, gamma = released\ncraft: guidance = cfg  # plain\ndirect"


def _of_files(read: Callable[[bytes, Path], Any], *sound: SoundFile) -> Door:
    damaged = st.one_of(*(damaged_file(one) for one in sound))
    return Door(read, damaged, [one.written() for one in sound])


def _of_texts(read: Callable[[bytes, Path], Any], *sound: str) -> Door:
    damaged = st.one_of(*(damaged_text(one) for one in sound))
    return Door(read, damaged, [one.encode() for one in sound])


def _of_json(read: Callable[[bytes, Path], Any], *sound: Any) -> Door:
    damaged = st.one_of(*(damaged_json(one) for one in sound))
    return Door(read, damaged, [json.dumps(one).encode() for one in sound])


DOORS: dict[str, Door] = {
    "LoRA files": _of_files(_lora, *LORA_FILES),
    "PEFT metadata": _of_json(_peft, PEFT),
    "encoder files": _of_files(lambda content, at: read_encoder(_file(content, at)), ENCODER),
    "basis files": _of_files(_basis, BASIS),
    "CSD files": _of_files(lambda content, at: read_csd(_file(content, at)), CSD),
    "text encoders": _of_files(lambda content, at: read_text_tower(_file(content, at)), TEXT_TOWER),
    "CSD checkpoints": Door(
        lambda content, at: read_csd(_file(content, at, ".pth")),
        _damaged_checkpoint(),
        [CHECKPOINT],
    ),
    "training states": _of_files(_state, STATE),
    "prompts": _of_texts(_as_text(parse), PROMPT_TEXT),
    "layer sets": _of_texts(_as_text(_layer_sets), LAYER_TEXT),
    "lists of LoRAs": _of_json(_as_text(read_rows), ROWS),
    "texts of lists of LoRAs": _of_texts(_as_text(read_rows), json.dumps(ROWS)),
    "methods": _of_texts(_as_text(_methods), METHOD_TEXT),
    "curves": _of_texts(_as_text(_curve), "0 1, 0.5 0.2, 1 0"),
    "points": _of_json(_points, [[0, 1], [0.5, 0.2], [1, 0]]),
    "presets": _of_json(_preset, SHIPPED["strong_style"], PRESET),
    "matrices": _of_texts(_as_text(_matrix), 'seed=1..10, "a, b",0.2..1.0..0.2'),
    "matrix files": _of_texts(_matrix_file, "a cat\n\na dog\n"),
    "workflows": _of_json(_workflow, PAGE, PROMPT),
    "journals": _of_texts(_journal, "".join(json.dumps(line) + "\n" for line in LINES)),
    "journal lines": _of_json(_journal, *LINES),
    "server answers": _of_json(_server, *ANSWERS),
    "announced LoRAs": _of_json(_announced, ANNOUNCED),
}
