"""Read and write LoRA files: safetensors only, every key accounted for, nothing half-written.

Round-trip law: what write_lora stores, read_lora gives back bitwise (down, up, scale).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..tensor_file import Kind, read, save
from ..types import Factors, LayerShapes, LayerTarget, LayerUpdate, LoraFile
from .factors import alpha_of, combine, is_plain_float, scale_of
from .families import family_of, is_text_encoder
from .formats import KINDS, AdaptedLayer, Parts, RefusedKind, build_update, stem_of
from .keys import LoraNames, kohya_name, lora_names
from .peft_config import METADATA_KEY as PEFT_METADATA_KEY
from .peft_config import read_peft_configs, stated_for

KIND = Kind("LoRA file", "If it was downloaded, download it again")
_EXTENSIONS = (".safetensors", ".sft")
_SCALES_KEY = "craft_exact_scales"  # metadata: stem -> float.hex(), where no alpha is exact


def read_lora(
    path: str | os.PathLike[str],
    layers: LayerShapes,
    extra: Mapping[str, LayerTarget] | None = None,
    mapped: bool = False,
) -> LoraFile:
    """A LoRA file against a model; layers and extra as in keys.lora_names, mapped as in
    tensor_file.read.

    Raises CraftError for anything but a readable safetensors file, and as parse_lora does.
    """
    path = Path(path)
    state, metadata = read_tensors(path, mapped)
    try:
        return parse_lora(state, metadata, layers, extra)
    except CraftError as error:
        raise CraftError(f"{path.name}: {error.given}", error.possible, error.action) from error


def read_tensors(path: Path, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a LoRA file; CraftError for anything but readable safetensors."""
    if path.suffix.lower() not in _EXTENSIONS:
        raise CraftError(
            f"{path.name} is not a safetensors file",
            "LoRA files are read as .safetensors only: other formats can run code when opened",
            "Convert it to safetensors",
        )
    return read(path, KIND, mapped)


def parse_lora(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layers: LayerShapes,
    extra: Mapping[str, LayerTarget] | None = None,
) -> LoraFile:
    """The tensors of a LoRA file against a model; layers and extra as in keys.lora_names, or extra
    all names that it gave.

    Layers come in the model's depth order, the slices of a fused one in row order; tensors keep
    their dtype. Text-encoder tensors are kept apart untouched, and names that point nowhere in
    the model are listed.
    Raises CraftError if no layer matches, if a matched layer's tensors do not fit or are
    incomplete, if any tensor holds NaN or infinity, or if the file holds updates of a kind that
    is not carried (DoRA, OFT, ...): those are named and counted.
    """
    _check_finite(state.items())
    names = extra if isinstance(extra, LoraNames) else lora_names(layers, extra)
    updates, rest = _by_target(state, names)
    text_encoder = {key: state[key] for key in rest if is_text_encoder(key)}
    rest = [key for key in rest if key not in text_encoder]
    _check_kinds(rest)
    _check_endings(rest, names)
    family = family_of(key for key in state if key not in text_encoder)
    if not updates:
        raise _nothing_matched(rest, bool(text_encoder), family, layers)
    configs, exact = read_peft_configs(metadata), _exact_scales(metadata)
    depth = {path: index for index, path in enumerate(layers)}
    found: dict[str, tuple[LayerUpdate, ...]] = {}
    kinds: dict[str, str] = {}
    for target in sorted(updates, key=lambda t: (depth[t.module], t.rows or (0, 0))):
        parts = updates[target]
        stem = stem_of(next(iter(parts.values()))[0])
        layer = AdaptedLayer(target, tuple(layers[target.module]), family)
        update, kind = build_update(parts, layer, stated_for(configs, stem))
        update = _exact(update, exact.get(stem))
        found[target.module] = (*found.get(target.module, ()), update)
        kinds[target.module] = kind
    unmatched = tuple(dict.fromkeys(map(stem_of, rest)))
    kept = {key: value for key, value in metadata.items() if key != _SCALES_KEY}
    return LoraFile(found, text_encoder, unmatched, kept, kinds)


def write_lora(
    path: str | os.PathLike[str],
    layers: Mapping[str, LayerUpdate | Sequence[LayerUpdate]],
    text_encoder: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    shapes: LayerShapes | None = None,
    stems: Mapping[str, str] | None = None,
    exclusive: bool = False,
) -> None:
    """Store updates by module path under kohya's LDM names, dtypes kept; same input, same bytes.

    Several updates of one layer, or one that covers a slice of it, are combined into one exact
    full update (factors.combine). shapes: the model's layers; needed for slices only.
    stems: by module path, the stem to store a layer under in place of kohya's.
    text_encoder: tensors stored under their own keys. A PEFT configuration in the metadata is
    left out: the scales are in the file as alpha.
    exclusive: never in the place of another file; where there is one, Taken is raised.
    The file appears whole or not at all. Raises CraftError if it cannot be written, or if the
    updates hold NaN or infinity.
    """
    path = Path(path)
    if path.suffix.lower() not in _EXTENSIONS:
        raise CraftError(
            f"A LoRA cannot be saved as {path.name}",
            "LoRA files are written as .safetensors",
            "Choose a name that ends in .safetensors",
        )
    tensors: dict[str, Tensor] = {}
    exact: dict[str, str] = {}
    for module, updates in layers.items():
        stem = stems[module] if stems else kohya_name(module)
        one = _whole(module, updates, shapes)
        assert f"{stem}.alpha" not in tensors, f"two layers are called {stem}"
        alpha = alpha_of(one.scale, one.rank)
        if scale_of(alpha, one.rank) != one.scale:
            exact[stem] = float(one.scale).hex()
        ones = (1,) * (one.down.ndim - 2)  # a convolution's up is a 1x1 convolution
        tensors[f"{stem}.alpha"] = _number(alpha)
        tensors[f"{stem}.lora_down.weight"] = one.down
        tensors[f"{stem}.lora_up.weight"] = one.up.reshape(*one.up.shape, *ones)
    for key, tensor in (text_encoder or {}).items():
        assert key not in tensors, f"{key} is both a layer and a text encoder's"
        tensors[key] = tensor
    _check_finite(tensors.items())
    described = {k: v for k, v in (metadata or {}).items() if k != PEFT_METADATA_KEY}
    assert all(isinstance(value, str) for value in described.values()), "metadata is text"
    if exact:
        described[_SCALES_KEY] = json.dumps(exact, sort_keys=True)
    save(path, tensors, described, "A LoRA", exclusive=exclusive)


def _by_target(
    state: Mapping[str, Tensor], names: Mapping[str, LayerTarget]
) -> tuple[dict[LayerTarget, Parts], list[str]]:
    """The tensors of every layer the file adapts, and the keys that adapt none."""
    groups: dict[LayerTarget, dict[str, tuple[str, Tensor]]] = {}
    rest: list[str] = []
    for key, tensor in state.items():
        split = KINDS.split(key)
        if split is None or split.stem not in names:
            rest.append(key)
            continue
        parts = groups.setdefault(names[split.stem], {})
        if split.part in parts:
            raise CraftError(
                f"{parts[split.part][0]} and {key} are both there for one layer",
                "A file holds one LoRA, and each layer once",
                "Save the LoRAs as separate files",
            )
        parts[split.part] = (key, tensor)
    lone = [target for target, parts in groups.items() if set(parts) == {"alpha"}]
    rest += [groups.pop(target)["alpha"][0] for target in lone]  # an alpha without factors
    return {**groups}, rest


def _check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    broken = [key for key, tensor in tensors if not _finite(tensor)]
    if broken:
        raise CraftError(
            f"{listed(broken, 2)} holds NaN or infinity",
            "Such a LoRA makes every image black or noise",
            "Use an earlier save of its training, or train with a lower learning rate",
        )


def _finite(tensor: Tensor) -> bool:
    if not is_plain_float(tensor):
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no isfinite
    # NaN and infinity reach a sum, which is many times as fast; one of large numbers may overflow.
    return math.isfinite(wide.sum().item()) or bool(torch.isfinite(wide).all())


def _check_kinds(keys: Iterable[str]) -> None:
    """CraftError if updates of a kind that is not carried are among the keys."""
    kinds: dict[RefusedKind, list[str]] = {}
    for key in keys:
        kind = KINDS.refused(key)
        if kind:
            kinds.setdefault(kind, []).append(key)
    if kinds:
        counted = "; ".join(
            f"{kind.name}, which {kind.reason} ({listed(held, 2)})" for kind, held in kinds.items()
        )
        raise CraftError(
            f"The file holds updates that branches do not carry: {counted}",
            f"{KINDS.names} are carried exactly",
            "Convert it to a plain LoRA (by SVD of the difference), or load it with the host's "
            "own LoRA loader",
        )


def _check_endings(keys: Iterable[str], names: Mapping[str, LayerTarget]) -> None:
    """CraftError if a key belongs to a layer of the model but its ending is unknown."""
    unknown = [key for key in keys if KINDS.split(key) is None and _starts_with_stem(key, names)]
    if unknown:
        raise CraftError(
            f"The file holds tensors of an unknown kind: {listed(unknown, 2)}",
            f"{KINDS.names} are carried exactly",
            "Convert it to a plain LoRA",
        )


def _starts_with_stem(key: str, names: Mapping[str, LayerTarget]) -> bool:
    dots = (index for index, letter in enumerate(key) if letter == ".")
    return any(key[:index] in names for index in dots)


def _nothing_matched(
    keys: Sequence[str], text_encoder: bool, family: str | None, layers: LayerShapes
) -> CraftError:
    if not keys:
        held = "only text-encoder weights" if text_encoder else "no tensors"
        return CraftError(
            f"The file holds {held}",
            "A branch needs a LoRA of the diffusion model",
            "Choose another LoRA",
        )
    looks = f"they look like {family}" if family else "they are of no known family"
    model = family_of(layers)
    return CraftError(
        f"No name in this LoRA points to a layer of the model ({listed(keys, 2)}); {looks}",
        f"The model looks like {model}"
        if model
        else f"The model has layers like {listed(layers, 2)}",
        "Load a LoRA made for this model, or the model this LoRA was made for",
    )


def _exact_scales(metadata: Mapping[str, str]) -> dict[str, float]:
    """Stem -> scale, for the scales that write_lora could not express as an alpha."""
    try:
        stored = json.loads(metadata.get(_SCALES_KEY, "{}"))
        return {stem: float.fromhex(text) for stem, text in stored.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CraftError(
            f"The metadata entry {_SCALES_KEY} cannot be read ({error})",
            "It is a JSON table of hexadecimal numbers",
            "Remove it: the alpha tensors say the same to sixteen digits",
        ) from error


def _exact(update: LayerUpdate, scale: float | None) -> LayerUpdate:
    """The update with their last digits restored; alpha decides if the two disagree."""
    if scale is None or not math.isclose(update.scale, scale, rel_tol=1e-14):
        return update
    return replace(update, scale=scale)


def _whole(
    module: str, updates: LayerUpdate | Sequence[LayerUpdate], shapes: LayerShapes | None
) -> Factors:
    updates = (updates,) if isinstance(updates, LayerUpdate) else tuple(updates)
    shape = (shapes or {}).get(module)
    sliced = any(one.rows for one in updates)
    assert shape or not sliced, f"{module} is covered in part: its full shape is needed"
    one = combine(updates, shape[0] if shape else None)
    fits = shape is None or (one.up.shape[0], *one.down.shape[1:]) == tuple(shape)
    assert fits, f"the update of {module} does not have its shape {shape}"
    assert one.up.shape[1] == one.rank > 0, f"the factors of {module} do not share a rank"
    return one


def _number(value: float) -> Tensor:
    """A 0-d tensor that holds the value exactly, in float32 if that can."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)
