"""The sampling of a prompt: its settings stand in one node, or in several that are linked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

_MOST_SAMPLERS = 100  # nodes that sample which are looked at; from each, others are sought
NodeInputs = Mapping[str, Any]
ApiPrompt = Mapping[str, Mapping[str, Any]]
_SEEDS = ("seed", "noise_seed")
_POSITIVE = ("positive", "conditioning", "cond1")
_CFG = ("cfg", "cfg_conds")
# In lower case and without "_", so that also the class of a node is found, as SamplerLMS.
_SAMPLERS = {
    "ddim": "DDIM",
    "dpm2": "DPM2",
    "dpm2ancestral": "DPM2 a",
    "dpmadaptive": "DPM adaptive",
    "dpmfast": "DPM fast",
    "dpmpp2m": "DPM++ 2M",
    "dpmpp2msde": "DPM++ 2M SDE",
    "dpmpp2msdeheun": "DPM++ 2M SDE Heun",
    "dpmpp2sancestral": "DPM++ 2S a",
    "dpmpp3msde": "DPM++ 3M SDE",
    "dpmppsde": "DPM++ SDE",
    "euler": "Euler",
    "eulerancestral": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "unipc": "UniPC",
    "unipcbh2": "UniPC",
}
_SCHEDULERS = {
    "alignyoursteps": "Align Your Steps",
    "beta": "Beta",
    "betasampling": "Beta",
    "ddimuniform": "DDIM",
    "exponential": "Exponential",
    "karras": "Karras",
    "kloptimal": "KL Optimal",
    "normal": "Normal",
    "polyexponential": "Polyexponential",
    "sgmuniform": "SGM Uniform",
    "simple": "Simple",
}
_IN_SAMPLERS = ("Karras", "Exponential")  # what a sampler's name in the web UI may end with


@dataclass(frozen=True)
class SamplingFacts:
    """Settings are None where they are not found. positive, negative, latent, model: links, if
    any. own: the inputs of the nodes that sample and guide."""

    seed: Any
    steps: Any
    sampler: Any
    scheduler: Any
    cfg: Any
    positive: Any
    negative: Any
    latent: Any
    model: Any
    own: tuple[NodeInputs, ...]


def sampling_of(prompt: ApiPrompt) -> SamplingFacts | None:
    """Of the first node that samples and whose seed is found."""
    whole = (one["inputs"] for one in prompt.values())
    for inputs in islice((one for one in whole if _samples(one)), _MOST_SAMPLERS):
        found = (_of_one if "steps" in inputs else _of_several)(prompt, inputs)
        if found.seed is not None:
            return found
    return None


def _samples(inputs: NodeInputs) -> bool:
    of_several = _is_link(inputs.get("sampler")) and _is_link(inputs.get("sigmas"))
    return "steps" in inputs or of_several


def _of_one(prompt: ApiPrompt, inputs: NodeInputs) -> SamplingFacts:
    return SamplingFacts(
        input_value(prompt, inputs, *_SEEDS), input_value(prompt, inputs, "steps"),
        input_value(prompt, inputs, "sampler_name"), input_value(prompt, inputs, "scheduler"),
        input_value(prompt, inputs, *_CFG), _link(inputs, *_POSITIVE), _link(inputs, "negative"),
        _link(inputs, "latent_image"), _link(inputs, "model"), (inputs,),
    )  # fmt: skip


def _of_several(prompt: ApiPrompt, inputs: NodeInputs) -> SamplingFacts:
    """Of a node that takes noise, a guider, a sampler and sigmas, or some of those, from others."""
    guides = (one for _, one in above(prompt, inputs.get("guider")) if _is_link(one.get("model")))
    guide = next(guides, inputs)
    steps, scheduler = _course(prompt, inputs["sigmas"])
    return SamplingFacts(
        _seed(prompt, inputs), steps, _sampler(prompt, inputs["sampler"]), scheduler,
        input_value(prompt, guide, *_CFG), _link(guide, *_POSITIVE), _link(guide, "negative"),
        _link(inputs, "latent_image"), _link(guide, "model"), (inputs, guide),
    )  # fmt: skip


def _seed(prompt: ApiPrompt, inputs: NodeInputs) -> Any:
    nodes = [inputs, *(one for _, one in above(prompt, inputs.get("noise")))]
    return next(
        (seed for one in nodes if (seed := input_value(prompt, one, *_SEEDS)) is not None), None
    )


def _sampler(prompt: ApiPrompt, link: Any) -> Any:
    """What the nearest node that names a sampler says, or the kind of the linked one."""
    for _, inputs in above(prompt, link):
        name = input_value(prompt, inputs, "sampler_name")
        if name is not None:
            return name
    return _kind(prompt, link[0])


def _course(prompt: ApiPrompt, link: Any) -> tuple[Any, Any]:
    """(steps, scheduler) of the node that the sigmas come from, behind those that cut them."""
    for node, inputs in above(prompt, link):
        if "steps" in inputs and "sigmas" not in inputs:
            scheduler = input_value(prompt, inputs, "scheduler")
            return input_value(prompt, inputs, "steps"), scheduler or _kind(prompt, node)
    return None, None


def _kind(prompt: ApiPrompt, node: Any) -> Any:
    return prompt[node].get("class_type") if node in prompt else None


def sampler_words(sampler: Any, scheduler: Any) -> Any:
    """`DPM++ 2M Karras` for dpmpp_2m and karras; a sampler that the web UI has not stays as it
    is."""
    words = _SAMPLERS.get(_key(sampler, "sampler").removesuffix("gpu"))
    course = scheduler_words(scheduler)
    if words is None:
        return sampler
    return f"{words} {course}" if course in _IN_SAMPLERS else words


def scheduler_words(scheduler: Any) -> Any:
    """`Karras` for karras; one that the web UI has not stays as it is."""
    return _SCHEDULERS.get(_key(scheduler, "scheduler"), scheduler)


def _key(name: Any, kind: str) -> str:
    return str(name).lower().replace("_", "").removeprefix(kind).removesuffix(kind)


def input_value(prompt: ApiPrompt, inputs: NodeInputs, *names: str) -> Any:
    """The first plain value of the inputs, also where it is linked to a node that holds a value
    alone; None for none."""
    for name in names:
        value = inputs.get(name)
        if _is_link(value) and value[0] in prompt:
            there = prompt[value[0]]["inputs"]
            value = there.get("value", there.get(name))
        if is_plain(value):
            return value
    return None


def is_plain(value: Any) -> bool:
    """Whether it is a text or a number."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _link(inputs: NodeInputs, *names: str) -> Any:
    return next((inputs[name] for name in names if _is_link(inputs.get(name))), None)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def above(prompt: ApiPrompt, link: Any) -> Iterator[tuple[str, NodeInputs]]:
    """(name, inputs) of the node that a link comes from, and of those above it, nearest first."""
    for node in _names_above(prompt, link, lambda one: one["inputs"].values()):
        yield node, prompt[node]["inputs"]


def nodes_above(
    prompt: ApiPrompt, link: Any, links_of: Callable[[Mapping[str, Any]], Iterable[Any]]
) -> Iterator[Mapping[str, Any]]:
    """The same nodes, of those above by the links of a node that count."""
    return (prompt[node] for node in _names_above(prompt, link, links_of))


def _names_above(
    prompt: ApiPrompt, link: Any, links_of: Callable[[Mapping[str, Any]], Iterable[Any]]
) -> Iterator[str]:
    waiting, seen = deque([link]), set()
    while waiting:
        link = waiting.popleft()
        node = link[0] if _is_link(link) else None
        if node is None or node in seen or node not in prompt:
            continue
        seen.add(node)
        yield node
        waiting += links_of(prompt[node])
