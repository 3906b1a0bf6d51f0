"""Read and write LoRA files: safetensors only, every key accounted for, nothing half-written.

Round-trip law: what write_lora stores, read_lora gives back bitwise (down, up, scale).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CraftError, listed
from ..json_text import shallow_json
from ..tensor_file import Kind, read, save
from ..types import Factors, LayerShapes, LayerTarget, LayerUpdate, LoraFile
from .factors import alpha_of, combine, is_plain_float, scale_of
from .families import (
    CLASSES,
    EMBEDDING_ADVICE,
    family_of,
    is_embedding,
    is_text_encoder,
    share_names,
)
from .formats import KINDS, AdaptedLayer, Difference, Parts, RefusedKind, build_updates, stem_of
from .keys import LoraNames, kohya_name, lora_names
from .peft_config import METADATA_KEY as PEFT_METADATA_KEY
from .peft_config import read_peft_configs, stated_for
from .placing import placed
from .stated_scales import stale_scales, stated_scales_note

KIND = Kind("LoRA file", "If it was downloaded, download it again")
_EXTENSIONS = (".safetensors", ".sft")
_SCALES_KEY = "craft_exact_scales"  # metadata: stem -> float.hex(), where no alpha is exact


def read_lora(
    path: str | os.PathLike[str],
    layers: LayerShapes,
    extra: Mapping[str, LayerTarget] | None = None,
    allow: bool = False,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    mapped: bool = False,
) -> LoraFile:
    """A LoRA file against a model; layers, extra and allow as in parse_lora, mapped as in
    tensor_file.read.

    convert: what renames the tensors of a file before its names are looked up.
    Raises CraftError for anything but a readable safetensors file, and as parse_lora does.
    """
    path = Path(path)
    state, metadata = read_tensors(path, mapped)
    state = convert(state) if convert else state
    try:
        return parse_lora(state, metadata, layers, extra, allow)
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
    allow: bool = False,
) -> LoraFile:
    """The tensors of a LoRA file against a model; layers and extra as in keys.lora_names, or extra
    all names that it gave.

    Layers come in the model's depth order, the slices of a fused one in row order; tensors keep
    their dtype. Differences that are all zeros are left out. Text-encoder tensors are kept apart
    untouched, and names that point nowhere in the model are listed. A file of text-encoder tensors
    alone has no layers.
    allow: leave out what cannot act, and say so in `faults`: a layer whose tensors do not fit, are
    incomplete or there twice, endings of no known kind, and kinds that are not carried (AdaLoRA,
    VeRA, ...). Otherwise CraftError for the first of these, named and counted.
    Raises CraftError if other names are there and no layer acts, or if any tensor holds NaN or
    infinity.
    """
    _check_finite(state.items())
    names = extra if isinstance(extra, LoraNames) else lora_names(layers, extra)
    updates, rest, faults = _by_target(state, names)
    text_encoder = {key: state[key] for key in rest if is_text_encoder(key)}
    rest = [key for key in rest if key not in text_encoder]
    refused, rest = _refused_kinds(rest)
    strange, rest = _strange_endings(rest, names)
    faults += [*refused, *strange]
    own = [key for key in state if key not in text_encoder]
    family = cache(partial(family_of, own))  # many searches, which errors alone need
    if faults and not (allow and updates):
        raise _with_the_way_out(faults, bool(updates))
    if not updates and (rest or not text_encoder):
        raise _nothing_matched(rest, family(), layers)
    read = _Reading(metadata, layers, family)
    depth = {path: index for index, path in enumerate(layers)}
    for target in sorted(updates, key=lambda t: (depth[t.module], t.rows or (), t.columns or ())):
        try:
            read.layer(target, updates[target])
        except CraftError as error:
            faults.append(error)
            if not allow:
                raise _with_the_way_out(faults, True) from error
    if faults and not read.found and not read.zeros:
        raise faults[-1]
    stale = stale_scales(text_encoder, metadata)
    if stale and not allow:
        raise _with_the_way_out(stale, True)
    faults += stale
    unmatched = tuple(dict.fromkeys(map(stem_of, rest)))
    kept = {key: value for key, value in metadata.items() if key != _SCALES_KEY}
    note = stated_scales_note(state, metadata)
    return LoraFile(
        read.found, text_encoder, unmatched, kept, read.kinds, read.zeros,
        tuple(fault.given for fault in faults), (note,) if note else (),
    )  # fmt: skip


class _Reading:
    """The updates read so far, by module path. kinds, zeros: as in LoraFile."""

    def __init__(
        self,
        metadata: Mapping[str, str],
        layers: LayerShapes,
        family: Callable[[], str | None],
    ) -> None:
        self.layers, self.family = layers, family
        self.configs, self.exact = read_peft_configs(metadata), _exact_scales(metadata)
        self.found: dict[str, tuple[LayerUpdate, ...]] = {}
        self.kinds: dict[str, str] = {}
        self.zeros = 0

    def layer(self, target: LayerTarget, parts: Parts) -> None:
        """Read the update of one layer, or of a slice of one."""
        stem, path = stem_of(next(iter(parts.values()))[0]), target.module
        layer = AdaptedLayer(target, tuple(self.layers[path]), self.family)
        built = build_updates(parts, layer, stated_for(self.configs, stem))
        acting = [(one, kind) for one, kind in built if not _is_zero(one)]
        self.zeros += len(built) - len(acting)
        if acting:
            exact = (_exact(update, self.exact.get(stem)) for update, _ in acting)
            own = (placed(update, target, layer.shape) for update in exact)
            self.found[path] = (*self.found.get(path, ()), *own)
            self.kinds[path] = " and ".join(kind.name for _, kind in acting)


def _with_the_way_out(faults: Sequence[CraftError], others_act: bool) -> CraftError:
    """The first fault. others_act: whether layers of the file are left that can act without it."""
    first = faults[0]
    if not others_act:
        return first
    action = f"{first.action}; or go on with what can act: allow_unmatched, --allow-unmatched"
    return CraftError(first.given, first.possible, action)


def write_lora(
    path: str | os.PathLike[str],
    layers: Mapping[str, LayerUpdate | Sequence[LayerUpdate]],
    text_encoder: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    shapes: LayerShapes | None = None,
    stems: Mapping[str, str] | None = None,
    exclusive: bool = False,
) -> None:
    """Store updates by module path, dtypes kept; same input, same bytes.

    Several updates of one layer, or one that covers a slice of it, are combined into one exact
    full update (factors.combine), those of its bias into a bias difference. A normalisation's are
    stored as a difference. shapes: the model's layers; needed for slices only.
    stems: by module path, the stem to store a layer under, such as keys.kohya_stems of the model;
    by default its path in kohya's writing, which loads here and in the host.
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
    taken: set[str] = set()
    for module, updates in layers.items():
        stem = stems[module] if stems else kohya_name(module)
        assert stem not in taken, f"two layers are called {stem}"
        taken.add(stem)
        for of_bias in (False, True):
            own = [one for one in _listed(updates) if one.of_bias == of_bias]
            if not own:
                continue
            one = _whole(module, own, shapes)
            alpha = alpha_of(one.scale, one.rank)
            if one.down.ndim > 1 and scale_of(alpha, one.rank) != one.scale:
                exact[stem] = float(one.scale).hex()
            tensors |= named(stem, one, _number(alpha), of_bias)
    for key, tensor in (text_encoder or {}).items():
        assert key not in tensors, f"{key} is both a layer and a text encoder's"
        tensors[key] = tensor
    _check_finite(tensors.items())
    described = {k: v for k, v in (metadata or {}).items() if k != PEFT_METADATA_KEY}
    assert all(isinstance(value, str) for value in described.values()), "metadata is text"
    if exact:
        described[_SCALES_KEY] = json.dumps(exact, sort_keys=True)
    save(path, tensors, described, "A LoRA", exclusive=exclusive)


def named(stem: str, factors: Factors, alpha: Tensor, of_bias: bool = False) -> dict[str, Tensor]:
    """The tensors of one update under its stem; one of a bias or of a normalisation as a
    difference, in the factors' type."""
    if factors.down.ndim == 1:
        ending = "diff_b" if of_bias else "diff"
        return {f"{stem}.{ending}": factors.delta().to(factors.up.dtype)}
    ones = (1,) * (factors.down.ndim - 2)  # a convolution's up is a 1x1 convolution
    return {
        f"{stem}.alpha": alpha,
        f"{stem}.lora_down.weight": factors.down,
        f"{stem}.lora_up.weight": factors.up.reshape(*factors.up.shape, *ones),
    }


def _listed(updates: LayerUpdate | Sequence[LayerUpdate]) -> Sequence[LayerUpdate]:
    return (updates,) if isinstance(updates, LayerUpdate) else tuple(updates)


def _is_zero(update: LayerUpdate) -> bool:
    """Whether it is a difference that does nothing."""
    return isinstance(update, Difference) and not update.difference.any()


def _by_target(
    state: Mapping[str, Tensor], names: LoraNames
) -> tuple[dict[LayerTarget, Parts], list[str], list[CraftError]]:
    """(the tensors of every layer the file adapts, the keys that adapt none, faults: keys that
    are there for a layer that has such a tensor already)."""
    groups: dict[LayerTarget, dict[str, tuple[str, Tensor]]] = {}
    rest: list[str] = []
    faults: list[CraftError] = []
    for key, tensor in state.items():
        split = KINDS.split(key)
        targets = names.targets(split.stem) if split else ()
        if split is None or not targets:
            rest.append(key)
            continue
        for target in targets:
            parts = groups.setdefault(target, {})
            if split.part in parts:
                fault = CraftError(
                    f"{parts[split.part][0]} and {key} are both there for one layer",
                    "A file holds one LoRA, and each layer once",
                    "Save the LoRAs as separate files",
                )
                faults.append(fault)
                continue
            parts[split.part] = (key, tensor)
    lone = [target for target, parts in groups.items() if set(parts) == {"alpha"}]
    alphas = [groups.pop(target)["alpha"][0] for target in lone]  # an alpha without factors
    return {**groups}, [*rest, *dict.fromkeys(alphas)], faults


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


def _refused_kinds(keys: Iterable[str]) -> tuple[list[CraftError], list[str]]:
    """(the fault of updates of kinds that are not carried, the other keys)."""
    kinds: dict[RefusedKind, list[str]] = {}
    others = []
    for key in keys:
        kind = KINDS.refused(key)
        if kind:
            kinds.setdefault(kind, []).append(key)
        else:
            others.append(key)
    if not kinds:
        return [], others
    counted = "; ".join(
        f"{kind.name}, which {kind.reason} ({listed(held, 2)})" for kind, held in kinds.items()
    )
    fault = CraftError(
        f"The file holds updates that branches do not carry: {counted}",
        f"{KINDS.names} are carried exactly",
        "Convert it to a plain LoRA (by SVD of the difference), or load it with the host's own "
        "LoRA loader",
    )
    return [fault], others


def _strange_endings(keys: Iterable[str], names: LoraNames) -> tuple[list[CraftError], list[str]]:
    """(the fault of keys that belong to a layer of the model but end in no known way, the other
    keys)."""
    keys = list(keys)
    strange = [key for key in keys if KINDS.split(key) is None and _starts_with_stem(key, names)]
    if not strange:
        return [], keys
    fault = CraftError(
        f"The file holds tensors of an unknown kind: {listed(strange, 2)}",
        f"{KINDS.names} are carried exactly",
        "Convert it to a plain LoRA",
    )
    return [fault], [key for key in keys if key not in set(strange)]


def _starts_with_stem(key: str, names: LoraNames) -> bool:
    dots = (index for index, letter in enumerate(key[: names.longest + 1]) if letter == ".")
    return any(names.targets(key[:index]) for index in islice(dots, names.deepest))


def _nothing_matched(keys: Sequence[str], family: str | None, layers: LayerShapes) -> CraftError:
    if not keys:
        return CraftError(
            "The file holds no tensors", "A LoRA changes layers", "Choose another LoRA"
        )
    embeddings = [key for key in keys if is_embedding(key)]
    if len(embeddings) == len(keys):
        return CraftError(
            f"The file holds an embedding and no LoRA ({listed(embeddings, 2)})",
            "An embedding is words for the text encoder; it changes no layer",
            EMBEDDING_ADVICE,
        )
    names = [stem_of(key) for key in keys if key not in embeddings]
    shown = listed(list(dict.fromkeys(names)), 3)
    model = family_of(layers)
    if family and model and share_names(family, model) and family not in CLASSES:
        so = (
            "so does the model" if family == model else f"the model like {model}, which is built so"
        )
        return CraftError(
            f"The layers in this LoRA have names of a kind that is not known ({shown})",
            f"They look like {family}, and {so}: only the naming is in the way",
            "Save the LoRA under kohya's, diffusers' or ComfyUI's names, or report these names "
            "and the tool that wrote them",
        )
    looks = f"they look like {family}" if family else "they are of no known family"
    return CraftError(
        f"No name in this LoRA points to a layer of the model ({shown}); {looks}",
        f"The model looks like {model}"
        if model
        else f"The model has layers like {listed(layers, 2)}",
        "Load a LoRA made for this model, or the model this LoRA was made for",
    )


def _exact_scales(metadata: Mapping[str, str]) -> dict[str, float]:
    """Stem -> scale, for the scales that write_lora could not express as an alpha."""
    try:
        stored = shallow_json(metadata.get(_SCALES_KEY, "{}"))
        return {stem: float.fromhex(text) for stem, text in stored.items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
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


def _whole(module: str, updates: Sequence[LayerUpdate], shapes: LayerShapes | None) -> Factors:
    shape = (shapes or {}).get(module)
    sliced = any(one.rows for one in updates)
    assert shape or not sliced, f"{module} is covered in part: its full shape is needed"
    one = combine(updates, shape[0] if shape else None)
    inputs = () if shape is None or updates[0].of_bias else tuple(shape[1:])
    fits = shape is None or (one.outputs, *one.inputs) == (shape[0], *inputs)
    assert fits, f"the update of {module} does not have its shape {shape}"
    assert one.up.shape[1] == one.rank > 0, f"the factors of {module} do not share a rank"
    return one


def _number(value: float) -> Tensor:
    """A 0-d tensor that holds the value exactly, in float32 if that can."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)
