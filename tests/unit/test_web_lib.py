"""The page's own logic: its tests under node, and that it computes what the core computes."""

from __future__ import annotations

import json
import subprocess
from itertools import product
from typing import Any

import pytest
from laws.off_dials import CFG, STRENGTH, dials_in, named_dials
from playwright._impl._driver import compute_driver_executable

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.fusion.lines import parse_lines
from craft_core.guidance import GUIDANCE
from craft_core.guidance.reach import Guided, overdriven, overdriven_places, reaches
from craft_core.routing.markers import parse
from craft_core.schedule import SHAPES
from craft_core.schedule.schedule import Schedule, sample_curve
from launcher.paths import ROOT

NODE, _ = compute_driver_executable()  # node as the browser tier brings it, so never missing
NAMED = named_dials(FUSION)
WEB_TESTS = ROOT / "tests" / "web"
FLOORS = ((0.0, 0.0), (0.3, 0.0), (0.25, 1.0))
SWEPT = (0.0, 0.25, 0.5, 1.0)  # parts of a knob's range
POINTS = (
    ((0.0, 1.0), (1.0, 0.0)),
    ((0.2, 0.7),),
    ((0.1, 0.0), (0.15, 1.0), (0.2, 1.0), (0.8, 0.9), (0.95, 0.05)),
    ((0.9, 0.2), (0.0, 0.4), (0.5, 0.4), (0.6, 1.0)),
    (),
    ((0.3, 0.1), (0.3, 0.5)),
    ((0.0, 1.5), (1.0, 0.0)),
    tuple((n / 1001, 1.0) for n in range(1001)),
)
PROMPTS = (
    "", "no markers, at all ", "<\u017f>long s", "<c>a red car</c> in <s>watercolor style</s>",
    "A dog <c> in watercolor style <s>", "A dog, <c>, in ink. <s>.",
    "<C>a</C> and <c>b</c> <S>d</S>",
    "(<c> x )", "( <c>a dog</c> ) , <s>ink</s> !", "a<c>b</c>c<s>d</s>e", "a cat<c>sits<s>",
    "one <c> two <c> three <s>", "<c>a</c><s>b</s>", "line one <c>\n  in ink <s>\r\n end",
    "\u3000<c>猫</c>、<s>墨</s>", "🦊 fox<c>🦊<s>", "x\x85<c>y\x1c</c>\u2003z", "<c>a\u00a0</c>;",
    "<c> ,;. </c>", "<c></c>", "<c>", "</c>", "🦊🦊 a</s>", "<c>a <s>b</s> c</c>",
    "猫 ，<c>。水墨 、<s>。", "（ <c>猫</c> ）：「 <s>墨</s> 」！", "猫<c>，；。、．､｡<s>",
    "<c>a <s>b</c> c</s>", "<<c>c>a dog</c>", "<c >a</c>", "a <s> <s>", "<c>a</c></c>",
    "a photo of <c>a dog in <s>ink</s>", "a 🦊 <C>猫", "🦊<c>a fox", "a fox (<s>ink)", "a <c>, b",
    "a <c> " * 1000, "a <c> " * 1001, "<c>a</c> " + " " * 200_000 + "b",
)  # fmt: skip

GUIDED = [
    (
        {"guidance": key, "asymmetric": asymmetric, "cfg": cfg, "guidance.weight": weight,
         "guidance.content_weight": 1.0, "guidance.style_weight": weight / 2},
        {"content": content, "style": 0.7},
    )
    for key, asymmetric in (("acfg/cfg", True), ("acfg/cfg", False), ("role", True), ("weak", True))
    for cfg in (1.0, 3.0, 6.5, 8.0, 12.0, 100.0)
    for weight in (1.0, 2.5, 4.0)
    for content in (0.15, 0.7, -1.0, 3.0)
]  # fmt: skip

SWEEP_LINES = """
craft   # a comment: guidance = cfg
direct: guidance = cfg

k_lora: pattern = s*, gamma = released
direct: guidance = role, weight = 3, norm = rescale
craft: layer_sets = b-lora, guidance=weak , weight = 2.5,content_weight = 2, style_weight = 2
"""
SWEEPS = [
    ({"methods": methods, "cfgs": cfgs, "asymmetric": asymmetric}, strength)
    for methods in (SWEEP_LINES, "craft", "np_lora: guidance = role", "direct: guidance = acfg")
    for cfgs in ("2", "4", "1, 2 , 7,8")
    for asymmetric in (True, False)
    for strength in (0.1, 0.4, 0.75, 1.0, -1.5)
]


def ranges(parameter) -> list[Any]:
    if parameter.name in ("content", "style") and parameter.type is tuple:
        return list(POINTS)
    low, high = parameter.knob.minimum, parameter.knob.maximum
    return [low + part * (high - low) for part in SWEPT]


def curve_cases() -> list[dict[str, Any]]:
    cases = []
    for method in SHAPES:
        names = [parameter.name for parameter in method.parameters]
        for values in product(*map(ranges, method.parameters)):
            floors = FLOORS[len(cases) % len(FLOORS)]
            settings = dict(zip(names, values, strict=True))
            case = {"shape": method.key, "settings": settings, "floors": floors, "count": 21}
            cases += [case]
        cases += [{"shape": method.key, "settings": {}, "floors": (0.0, 0.0), "count": 5}]
    return cases


def python_curve(case: dict[str, Any]) -> Any:
    try:
        schedule = Schedule(case["shape"], case["settings"], *case["floors"])
        return sample_curve(schedule, case["count"])
    except CraftError:
        return None


def python_prompt(prompt: str) -> dict[str, Any]:
    try:
        marked = parse(prompt)
    except CraftError as error:
        return {"error": str(error)}
    return {
        "clean": marked.clean,
        "content": [phrase.text for phrase in marked.content],
        "style": [phrase.text for phrase in marked.style],
        "markers": [[prompt[start:end], role] for start, end, role in marked.markers],
        "unclosed": list(marked.unclosed),
    }


def node(arguments: list[str], text: str = "") -> str:
    done = subprocess.run(
        [NODE, *arguments], input=text, capture_output=True, text=True, cwd=ROOT, check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Any]:
    cases = [{"values": values, "strengths": strengths} for values, strengths in GUIDED]
    sweeps = [{"values": values, "strength": strength} for values, strength in SWEEPS]
    off = [
        {"method": method.key, "marked": method.traits.markers, "prompt": prompt,
         "strength": STRENGTH, "cfg": CFG}
        for method, prompt, _ in NAMED
    ]  # fmt: skip
    asked = {"curves": curve_cases(), "prompts": PROMPTS, "guided": cases, "sweeps": sweeps}
    asked["off"] = off
    return json.loads(node([str(WEB_TESTS / "evaluate.mjs")], json.dumps(asked)))


def test_the_tests_of_the_pages_logic_pass():
    files = sorted(map(str, WEB_TESTS.rglob("*.test.mjs")))
    assert files
    assert "# fail 0" in node(["--test", "--test-reporter=tap", *files])


def test_the_page_draws_the_curves_that_the_core_computes(evaluated):
    cases = curve_cases()
    assert {case["shape"] for case in cases} == set(SHAPES.keys())
    refused = 0
    for case, drawn in zip(cases, evaluated["curves"], strict=True):
        computed = python_curve(case)
        if computed is None:
            refused += 1
            assert "error" in drawn, case
            continue
        for row, own in zip(computed, drawn, strict=True):
            assert own == pytest.approx(row, abs=1e-12), case
    assert 0 < refused < len(cases)


def test_the_page_reads_a_prompt_as_the_core_does(evaluated):
    for prompt, read in zip(PROMPTS, evaluated["prompts"], strict=True):
        assert read == python_prompt(prompt), repr(prompt)


def test_the_page_finds_the_strengths_that_guidance_multiplies_too_far_as_the_core_does(evaluated):
    for (values, strengths), said in zip(GUIDED, evaluated["guided"], strict=True):
        rule = values["guidance"]
        if rule == "acfg/cfg":
            rule = "acfg" if values["asymmetric"] else "cfg"
        knobs = {n.removeprefix("guidance."): value for n, value in values.items() if "." in n}
        settings = knobs if rule in ("role", "weak") else {}
        assert said == overdriven(strengths, reaches(rule, values["cfg"], settings)), values
    assert 0 < sum(map(bool, evaluated["guided"])) < len(GUIDED)


def python_sweep(values: dict[str, Any], strength: float) -> str:
    settings, scales = [], [float(part) for part in values["cfgs"].split(",")]
    for line, cfg in product(parse_lines(values["methods"], ("b-lora",), GUIDANCE), scales):
        rule = line.guidance or ("acfg" if values["asymmetric"] else "cfg")
        place = ", ".join(line.label.splitlines()) + (f", cfg {cfg:g}" if len(scales) > 1 else "")
        by = reaches(rule, cfg, GUIDANCE[rule].knobs(line.weights))
        settings.append(Guided(place, dict.fromkeys(("content", "style"), strength), by))
    return " ".join(overdriven_places(settings))


def test_the_page_counts_the_settings_of_a_sweep_that_go_too_far_as_the_core_does(evaluated):
    for (values, strength), said in zip(SWEEPS, evaluated["sweeps"], strict=True):
        assert said == python_sweep(values, strength), (values, strength)
    assert 0 < sum(map(bool, evaluated["sweeps"])) < len(SWEEPS)


def test_the_page_calls_no_dial_too_strong_whose_loras_are_off(evaluated):
    for (method, prompt, named), places in zip(NAMED, evaluated["off"], strict=True):
        assert len(places) == 3
        for texts in places:
            assert dials_in(texts) == named, (method.key, prompt)
