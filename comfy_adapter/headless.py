"""The host without its page: what the command line asks for, answered by the nodes' own trainings.

It implements craft_core.requests.Headless and knows no flag. Files are found by the names
that the host lists, or by their paths.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import node_helpers
import nodes as host_nodes
import numpy as np
import safetensors
import torch
from PIL import Image, ImageOps
from torch import Tensor
from utils.extra_config import load_extra_path_config

from ..craft_core.errors import CraftError, listed
from ..craft_core.requests import (
    Expert,
    FuseData,
    LayerCallback,
    ModelFiles,
    Picture,
    Read,
    SavedFile,
    Stopped,
    TrainData,
    TrainingOptions,
)
from ..craft_core.training import DataSlots, StepCallback, training_of
from ..craft_core.training.sizes import Fit
from ..craft_core.training.slots import NO_FILE, FileSlot
from .engine.modules import lora_layers
from .model.basis import FOLDER as BASES
from .model.basis import apply_basis, basis_at, basis_files
from .model.host_files import path_by_name
from .model.lora_files import FOLDER as LORAS
from .model.lora_files import BranchFile, read_lora_files
from .model.slot_files import make_known
from .model.weights import OnModel, patched_weights
from .train.run import Interrupted, lacks_room, require_name
from .train.start import start_training
from .train.train import Captioned, FilledSlots, How, ModelParts, Trained
from .use.fuse_file import FuseRequest, fuse_branches

log = logging.getLogger("craft")
SAVED = ("checkpoints", "clip", "vae", "diffusion_models", "loras")  # where the host's nodes save
SAFE = (".safetensors", ".sft")
_PROCESSORS = "DefaultCPUAllocator"  # in what torch says of the processor's memory
_NO_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # Pillow's, PyAV's
SHOWN = 20  # names in a message
_BATCH = (
    "The model and the activations of one batch have to fit",
    "Take a smaller --size, or a smaller --batch-size with more --accumulate; do not give "
    "--precision fp32 or --no-checkpointing",
)
_SMALLER = (
    "A few of the largest layers have to fit, and the model if it is loaded",
    "Close what else uses the GPU, or add --cpu",
)


def begin(output: Path | None, node_packs: Sequence[Path]) -> None:
    """What the host's main.py does between reading its flags and loading a model."""
    extra = Path(folder_paths.__file__).with_name("extra_model_paths.yaml")
    if extra.is_file():
        load_extra_path_config(str(extra))
    if output is not None:
        folder_paths.set_output_directory(str(output))
    for kind in SAVED:
        folder_paths.add_model_folder_path(kind, str(_output() / kind))
    for folder in node_packs:
        if not asyncio.run(host_nodes.load_custom_node(str(folder))):
            raise CraftError(
                f"The node pack {folder} cannot be loaded; the reason is above",
                "A node pack is a folder that ComfyUI loads from custom_nodes",
                "Correct the path, or install what it needs",
            )


def train(
    job: TrainingOptions, data: TrainData, knobs: Mapping[str, Any], watch: StepCallback
) -> SavedFile:
    method = training_of(data.recipe)

    def started(how: How) -> Trained:
        filled = _filled(data, method.traits.slots, job)
        return start_training(_source(job.model), method, filled, knobs, how, watch)

    return _run(job, started)


def _filled(data: TrainData, slots: DataSlots, job: TrainingOptions) -> FilledSlots:
    """Files read. Of crossed slots there are all N x M pairs, the first slot's pictures major."""
    pictures = {key: _captioned(own) for key, own in data.pictures.items() if own}
    if slots.crossed:
        pairs = list(itertools.product(*(_each(pictures[key]) for key in slots.crossed)))
        for key, own in zip(slots.crossed, zip(*pairs, strict=True), strict=True):
            pictures[key] = _together(own)
    files = {slot.key: _model_file(slot, data.choices[slot.key]) for slot in slots.of(FileSlot)}
    return FilledSlots(
        pictures, _branches(data.experts), {**data.choices, **files}, Fit(job.resize, job.size)
    )


def fuse(data: FuseData, watch: LayerCallback) -> SavedFile:
    assert data.model is not None, "without a model nothing of the host is needed"
    request = FuseRequest(
        _branches(data.experts), data.layer_sets, {"method": data.method.key, **data.knobs},
        data.progress, data.steps, data.rank, data.save_as, data.allow_unmatched,
    )  # fmt: skip
    with _fitting(_SMALLER):
        result = fuse_branches(_model(data.model), request, watch)
    result.write(data.path)
    return SavedFile(data.path, result.report)


def read_loras(model: ModelFiles, files: Sequence[str]) -> Read:
    with _fitting(_SMALLER):
        patcher = _model(model)
    weights = patched_weights(patcher)
    read = read_lora_files([_file(LORAS, file) for file in files], patcher, allow=True)
    read = [replace(one, layers=OnModel(one.layers, weights)) for one in read]
    return Read(lora_layers(patcher), read)


def _branches(experts: Sequence[Expert]) -> tuple[BranchFile, ...]:
    return tuple(
        BranchFile(_name(one.file), one.role, one.strength, path=_file(LORAS, one.file))
        for one in experts
    )


def _name(given: str) -> str:
    """What a file is called in reports: the name it is listed under, or that of the file itself."""
    return Path(given).name if Path(given).is_file() else given


def _run(job: TrainingOptions, started: Callable[[How], Trained]) -> SavedFile:
    require_name(job.name)  # before a model is loaded
    how = How(job.name, job.resume, job.precision, job.checkpointing)
    try:
        # inference mode as the host runs nodes; a training opens its own way out
        with _fitting(_BATCH), torch.inference_mode():
            trained = started(how)
    except Interrupted as stopped:
        state = stopped.place.state
        raise Stopped(stopped.place.path, state if state.is_file() else None) from None
    return SavedFile(trained.path, trained.report)


@contextmanager
def _fitting(advice: tuple[str, str]) -> Iterator[None]:
    """Run the block; where the GPU runs out of memory, raise a CraftError. advice: what has to fit,
    and what to do. Of the processor's memory whoever called tells."""
    try:
        yield
    except RuntimeError as error:
        if not lacks_room(error) or _PROCESSORS in str(error):
            raise
        kept = f". {error.kept}" if hasattr(error, "kept") else ""  # by run_training
        first, *_ = str(error).split("\n")
        raise CraftError(f"The GPU ran out of memory ({first}){kept}", *advice) from error


def _captioned(pictures: Sequence[Picture]) -> Captioned:
    """Each file is read once, so that a picture that counts often is encoded once."""
    images = {path: _image(path) for path in {one.path: None for one in pictures}}
    return Captioned([images[one.path] for one in pictures], [one.caption for one in pictures])


def _each(data: Captioned) -> list[tuple[Tensor, str]]:
    return list(zip(data.images, data.captions, strict=True))


def _together(pairs: Sequence[tuple[Tensor, str]]) -> Captioned:
    return Captioned([image for image, _ in pairs], [caption for _, caption in pairs])


def _image(path: Path) -> Tensor:
    """(1, height, width, 3) in [0, 1], as the host's Load Image makes it of the file: turned as the
    file says. The first picture of an animation. CraftError for no picture, and for half of one,
    which the host takes."""
    try:
        with node_helpers.pillow(Image.open, path) as opened:
            opened.load()
            if opened.mode.startswith("I;16"):
                return _grey(ImageOps.exif_transpose(opened))
        file = path.resolve()  # the host follows no link out of its folder
        with _input_folder(file.parent):
            return host_nodes.LoadImage().load_image(f"{file.name} [input]")[0][:1]
    except _NO_PICTURE as error:
        raise CraftError(
            f"{path} cannot be read as a picture ({error})",
            "Pictures are PNG, JPEG or WebP files",
            "Save it again as one",
        ) from error


def _grey(picture: Image.Image) -> Tensor:
    """Of 16 bits. Load Image gives the same, but for ComfyUI before 0.24, where it is white."""
    values = torch.from_numpy(np.asarray(picture, np.float32) / 65535)
    return values[None, :, :, None].expand(-1, -1, -1, 3).contiguous()


@contextmanager
def _input_folder(folder: Path) -> Iterator[None]:
    """The folder where the host's nodes find their files, for as long as the block runs."""
    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(folder))
    try:
        yield
    finally:
        folder_paths.set_input_directory(before)


def _source(files: ModelFiles) -> ModelParts:
    """What the host's loaders make of the files; a part named alone replaces a checkpoint's."""
    model = clip = vae = None
    embeddings = folder_paths.get_folder_paths("embeddings")
    if files.checkpoint:
        model, clip, vae = _loaded(
            "checkpoints", files.checkpoint, comfy.sd.load_checkpoint_guess_config,
            output_model=not files.unet, output_clip=not files.clip, output_vae=not files.vae,
            embedding_directory=embeddings,
        )[:3]  # fmt: skip
    if files.unet:
        model = _loaded("diffusion_models", files.unet, comfy.sd.load_diffusion_model)
    if files.clip:
        clip = _clip(files.clip, files.clip_type, embeddings)
    if files.vae:
        vae = _vae(files.vae)
    if files.basis:
        basis_files()  # makes their folders known
        model = apply_basis(model, _loaded(BASES, files.basis, basis_at))
    return ModelParts(model, clip, vae)


def _model(files: ModelFiles) -> Any:
    """The diffusion model alone."""
    if files.unet:
        return _loaded("diffusion_models", files.unet, comfy.sd.load_diffusion_model)
    return _loaded(
        "checkpoints", files.checkpoint, comfy.sd.load_checkpoint_guess_config,
        output_clip=False, output_vae=False,
    )[0]  # fmt: skip


def _clip(names: Sequence[str], kind: str, embeddings: list[str]) -> Any:
    types = {one.name.lower(): one for one in comfy.sd.CLIPType}
    types["sdxl"] = comfy.sd.CLIPType.STABLE_DIFFUSION  # as in the host's menu
    if kind not in types:
        raise CraftError(
            f"--clip-type {kind}", f"It can be {', '.join(types)}", "Choose one of these"
        )
    further = [_file("text_encoders", name) for name in names[1:]]

    def load(first: str) -> Any:
        return comfy.sd.load_clip([first, *further], embeddings, types[kind])

    return _loaded("text_encoders", names[0], load)


def _vae(name: str) -> Any:
    if name in host_nodes.VAELoader.vae_list(host_nodes.VAELoader):  # some are more than one file
        return host_nodes.VAELoader().load_vae(name)[0]

    def load(path: str) -> Any:
        state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        vae = comfy.sd.VAE(sd=state, metadata=metadata)
        vae.throw_exception_if_invalid()
        return vae

    return _loaded("vae", name, load)


def _loaded(kind: str, given: str, load: Callable[..., Any], **settings: Any) -> Any:
    """load(path, **settings) of a file; the host's error about the file becomes a CraftError."""
    path = _file(kind, given)
    log.info("Loading %s", Path(path).name)
    try:
        return load(path, **settings)
    except CraftError:
        raise
    except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
        if lacks_room(error):  # _fitting gives it its message
            raise
        raise CraftError(
            f"{path} cannot be loaded ({' '.join(str(error).split())})",
            f"A file of {kind} is one that ComfyUI's own loader takes",
            "Try it in ComfyUI; a model that needs a node pack there needs --custom-node here",
        ) from error


def _file(kind: str, given: str) -> str:
    """The path of a safetensors file by its path, which wins, or by the name the host lists."""
    if not given.lower().endswith(SAFE):
        raise CraftError(
            f"{given} does not end in {' or '.join(SAFE)}",
            "Other formats can run code when opened",
            "Name or convert to a safetensors file",
        )
    if Path(given).is_file():
        return str(Path(given).absolute())
    known = path_by_name(kind, given)
    if known is not None:
        return known
    names = folder_paths.get_filename_list(kind)
    raise CraftError(
        f"There is no file {given!r}, here or among ComfyUI's {kind}",
        f"ComfyUI lists {listed(names, SHOWN)}",
        f"Name one of these, give a path, or put it into {folder_paths.get_folder_paths(kind)[0]}",
    )


def _model_file(slot: FileSlot, given: str) -> str:
    """The name under which the host finds the file of a slot."""
    if not given:
        return NO_FILE
    make_known(slot)
    return _listed(slot.folder, given)


def _listed(kind: str, given: str) -> str:
    """A name under which the host finds the file; its folder is made known where it was not."""
    path = Path(_file(kind, given))
    known = path_by_name(kind, given)
    if known is not None and path.samefile(known):
        return given
    folder_paths.add_model_folder_path(kind, str(path.parent))
    found = folder_paths.get_full_path(kind, path.name)
    if found is None or not path.samefile(found):
        raise CraftError(
            f"{path} has the name of another file, {found}",
            f"ComfyUI tells the files of {kind} apart by their names",
            "Rename one of them",
        )
    return path.name


def _output() -> Path:
    return Path(folder_paths.get_output_directory())
