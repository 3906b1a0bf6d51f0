"""A registry as a menu: each method an option, each of its knobs a widget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.input import CurveInput, MonotoneCubicCurve
from comfy_api.latest import io

from ...craft_core.errors import CraftError
from ...craft_core.messages import UNKNOWN
from ...craft_core.registry import Method, Parameter, Registry
from ...craft_core.routing.presets import OF_MODEL, PRESETS
from .sockets import PictureEncoderSocket

CUSTOM = "custom"
PATTERNS = "patterns"
_DENSE = 200


def method_menu(name: str, registry: Iterable[Method], tooltip: str) -> io.DynamicCombo.Input:
    """A menu of a registry's methods, or of several's, that shows the chosen one's knobs."""
    methods = tuple(registry)
    options = [
        io.DynamicCombo.Option(method.key, [knob_widget(p) for p in method.parameters])
        for method in methods
    ]
    lines = [f"{method.key}: {method.summary}" for method in methods]
    return io.DynamicCombo.Input(name, options=options, tooltip="\n".join([tooltip, *lines]))


def knob_widget(parameter: Parameter) -> io.Input:
    """The host's widget for one knob."""
    knob, name = parameter.knob, parameter.name
    common = {"default": parameter.default, "tooltip": knob.help, "advanced": knob.advanced or None}
    if parameter.type is bool:
        return io.Boolean.Input(name, **common)
    if knob.choices:
        return io.Combo.Input(name, options=list(knob.choices), **common)
    if parameter.type is int:
        limits = {"min": int(knob.minimum or 0), "max": int(knob.maximum or 2**31)}
        return io.Int.Input(name, step=int(knob.step or 1), **limits, **common)
    if parameter.type is float:
        limits = {"min": knob.minimum, "max": knob.maximum}
        return io.Float.Input(name, step=knob.step, **limits, **common)
    if parameter.type is str:
        return io.String.Input(name, multiline=True, **common)
    return io.Curve.Input(name, default=list(parameter.default), tooltip=knob.help)


def refuse_unknown(node: type[io.ComfyNode], name: str, keys: Iterable[str]) -> None:
    """CraftError where the running prompt gives an optional menu an entry that it does not have.

    The host leaves such an input out, and the node could not tell it from one that is not given.
    """
    prompt = node.hidden and node.hidden.prompt
    if not prompt or node.hidden.unique_id not in prompt:
        return
    given = prompt[node.hidden.unique_id]["inputs"].get(name)
    if given is not None and given not in keys:
        raise UNKNOWN.error(key=repr(given), noun=name, known=", ".join(keys))


def chosen(menu: dict[str, Any], name: str, registry: Registry) -> tuple[Method, dict[str, Any]]:
    """(method, its checked knobs) from what the host passes for a menu."""
    settings = {key: _plain(value) for key, value in menu.items() if key != name}
    method = registry[menu[name]]
    return method, method.knobs(settings)


def _plain(value: Any) -> Any:
    """A curve of the host, drawn in a widget or linked, as points; all else unchanged.

    The host's monotone cubic is the core's own; any other curve is followed point by point.
    """
    if not (isinstance(value, CurveInput) or isinstance(value, dict) and "points" in value):
        return value
    try:
        curve = CurveInput.from_raw(value)
    except (TypeError, ValueError, OverflowError):
        return value["points"]  # which are none: the core says in words what points are
    if isinstance(curve, MonotoneCubicCurve):
        return tuple(curve.points)
    return tuple((i / _DENSE, curve.interp(i / _DENSE)) for i in range(_DENSE + 1))


def knob_widgets(method: Method) -> list[io.Input]:
    """A widget for each of a method's knobs; the seed as the host's own nodes have it."""
    return [seed_widget(p) if p.name == "seed" else knob_widget(p) for p in method.parameters]


def seed_widget(parameter: Parameter) -> io.Input:
    """Fixed after each run, unlike a sampler's seed, so that Run does not train again."""
    return io.Int.Input(
        "seed", default=parameter.default, min=0, max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed, tooltip=parameter.knob.help,
    )  # fmt: skip


def layer_set_menu(
    name: str, *, auto: bool = True, default: str = ""
) -> io.DynamicCombo.Input:  # fmt: skip
    """A menu of the layer-set presets, and `custom` with the patterns to edit.

    auto: whether the preset that reads trained LoRAs is among them. default: what comes first.
    """
    first = ["auto", *OF_MODEL] if auto else list(OF_MODEL)
    first.sort(key=lambda key: key != default)
    options = [io.DynamicCombo.Option(key, []) for key in first]
    patterns = io.String.Input(
        PATTERNS,
        multiline=True,
        default=PRESETS["b-lora"].text,
        tooltip="One pattern a line, 'content: ...' or 'style: ...': a diffusers or LDM name, or "
        "the beginning of one; * stands for one part, 0..9 for one of these numbers, # starts a "
        "comment.",
    )
    options.append(io.DynamicCombo.Option(CUSTOM, [patterns]))
    lines = [f"{key}: {PRESETS[key].source}" for key in first]
    tooltip = "\n".join(["Which layers each role may act on.", *lines, "custom: your own patterns"])
    return io.DynamicCombo.Input(name, options=options, tooltip=tooltip)


def encoder_input(name: str, tooltip: str, optional: bool = True) -> io.Input:
    """A socket for what makes features of pictures: the host's CLIP_VISION, or a pack's own."""
    types = [io.ClipVision, PictureEncoderSocket]
    return io.MultiType.Input(name, types, optional=optional, tooltip=tooltip)


def one(values: list, name: str) -> Any:
    """The one value of a setting, in nodes whose images and captions may be lists."""
    if len(values) != 1:
        raise CraftError(
            f"{name} got {len(values)} values",
            "Images and captions may be lists; a setting has one value",
            f"Connect a single value to {name}",
        )
    return values[0]


def single_or_none(values: Any) -> Any:
    """What validate_inputs gets for one setting: its value, None where it is linked."""
    return values[0] if isinstance(values, list | tuple) and len(values) == 1 else None


def single(settings: dict[str, list]) -> dict[str, Any]:
    """Every setting's one value, menus with widgets of their own included."""
    return {name: _one_inside(values, name) for name, values in settings.items()}


def _one_inside(values: Any, name: str) -> Any:
    if isinstance(values, dict):  # a menu: its choice and that choice's widgets
        return {key: one(inner, key) for key, inner in values.items()}
    return one(values, name)
