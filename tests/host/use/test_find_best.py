"""Find Best Settings: a search on the small world's model, and what it leaves behind."""

import json
import random
from dataclasses import replace

import comfy.model_management
import nodes
import pytest
import small_world_models as small
import tiny
import torch
from craft_lora_pack.comfy_adapter.score.pair_scorer import PairScorer
from craft_lora_pack.comfy_adapter.score.scoring import score_pictures
from craft_lora_pack.comfy_adapter.use import search_journal
from craft_lora_pack.comfy_adapter.use.find_best import Search, SearchRequest, fitting_request
from craft_lora_pack.comfy_adapter.use.router import RouterRequest
from craft_lora_pack.comfy_adapter.use.sampling import Sampling
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation import harmonic_mean
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.presets import node_values
from craft_lora_pack.craft_core.routing.presets import OF_MODEL
from craft_lora_pack.craft_core.search import FIRST, rule_in, settings_of
from craft_lora_pack.nodes import score
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.score import FindBest

from small_world.judge_node import SmallWorldJudge

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
ALL = {"layer_sets": "all"}
LISTS = {
    "methods": "craft\ndirect",
    "guidances": "acfg\nrole: weight = 1.5",
    "strengths": "0.5, 1",
    "schedules": "constant, cosine",
}
STEPS, CFG, SEED, BUDGET = 1, 3.0, 7, 12
SAMPLING = {"steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def journals(tmp_path, monkeypatch):
    monkeypatch.setattr(search_journal, "_folder", lambda: tmp_path)
    return tmp_path


def references():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 64, 64, 3, generator=generator).split(1)


def encoders():
    return SmallWorldJudge.execute("first").result


def empty_latent():
    return nodes.EmptyLatentImage().generate(64, 64)[0]


def search(world, model=None, negative=None, latent=None, **others):
    content, style = references()
    content_judge, style_judge = encoders()
    given = {
        "content_weight": 0.5, "budget": BUDGET, "first_seed": SEED, **LISTS, **SAMPLING,
        "content_reference": content[0], "style_reference": style[0], "prompt": PROMPT,
        "content_lora": small.CONTENT, "style_lora": small.STYLE, "layer_sets": ALL,
        "clip_vision": content_judge, "style_clip_vision": style_judge, **others,
    }  # fmt: skip
    with torch.inference_mode():
        result = FindBest.execute(
            model or world.model, world.clip, world.vae, negative or world.encode(""),
            latent or empty_latent(), **given,
        ).result  # fmt: skip
    return dict(zip(("model", "positive", "asymmetric", "plot", "preset", "report"), result,
                    strict=True))  # fmt: skip


def lines(folder):
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def sampled(world, model, positive, seed, asymmetric):
    latent = empty_latent()
    with torch.inference_mode():
        found = ACFGKSampler.execute(
            model, seed, STEPS, CFG, "euler", "normal", positive, world.encode(""), latent, 1.0,
            asymmetric,
        ).result[0]["samples"]  # fmt: skip
        return world.vae.decode(found)


def test_a_search_keeps_to_its_budget_and_leaves_the_best(world, journals, made):
    found = search(world)
    preset = json.loads(found["preset"])
    assert len(made) == len(lines(journals)) <= BUDGET
    assert len(set(made)) < len(made) and min(made) == SEED
    assert found["report"].startswith("Best: " + lines_label(preset))
    assert found["plot"].shape[0] == 1 and found["plot"].shape[1] > 500
    by_label = {}
    for label, seed, content, style in lines(journals):
        by_label.setdefault(label, {})[seed] = (content, style)
    best = by_label[lines_label(preset)]
    scores = {one["measure"]: one for one in preset["scores"]}
    assert scores["content"]["n"] == len(best)
    contents, styles = torch.tensor(list(best.values())).T
    together = harmonic_mean((contents, styles)).mean()
    assert scores["harmonic mean"]["mean"] == pytest.approx(float(together), abs=1e-5)
    assert preset["frontier"] and preset["steps"] == STEPS
    values = node_values(preset)
    assert values.router["method"] == preset["method"]["method"]
    assert values.router["layer_sets"] == "all" and values.guidance["cfg"] == CFG


@pytest.mark.parametrize(("fresh", "comes_out"), [(0.9, False), (0.5, True), (0.1, True)])
def test_what_is_no_better_on_fresh_seeds_does_not_come_out(
    world, journals, monkeypatch, fresh, comes_out
):
    """The others score well where they are chosen, and `fresh` where they are compared."""

    def run(self, trial, routed):
        other = 0.9 if trial.seed < self.plan.seeds else fresh
        score = 0.5 if trial.setting == FIRST else other
        self.journal.add(self._key(trial), (score, score))
        self._take_up([trial])

    monkeypatch.setattr(Search, "run", run)
    found = search(world)
    preset = json.loads(found["preset"])
    first = {name: preset[name] for name in preset["first"]}
    assert (first == {**preset["first"], "layer_sets": preset["layer_sets"]}) == comes_out
    assert ("The search had preferred " in found["report"]) == comes_out
    assert (preset["gain_over_first"] is None) == comes_out


def test_the_page_is_told_the_preset(world, journals, monkeypatch):
    told = []
    monkeypatch.setattr(score, "tell", lambda _, *said: told.append(said))
    found = search(world, methods="direct", schedules="constant", guidances="acfg", budget=8)
    text, preset = told[-1]
    assert preset == found["preset"] and text == found["report"]
    assert text.splitlines()[0].endswith(lines_label(json.loads(preset)))


def test_settings_that_guidance_takes_too_far_are_told(world, journals, monkeypatch):
    told = []
    monkeypatch.setattr(score, "tell", lambda _, text, *preset: told.append(text))
    lists = {"methods": "direct", "schedules": "constant", "guidances": "acfg\ncfg"}
    found = search(world, **lists, strengths="0.5, 0.8", budget=8)
    said = (  # each for content with each for style, under ACFG at cfg 3
        "LoRAs are guided too far in 3 of 8 settings, farthest in direct, guidance = acfg; "
        "content 0.5, style 0.8; constant.\nStrength 0.8 times cfg 3 is 2.4; above 2, pictures "
        "burn. With strengths, bring the strength to 0.5, or lower cfg."
    )
    assert len(told) > 1 and all(said in text for text in told)
    assert said in found["report"]
    found = search(world, **lists, strengths="0.5, 0.6", budget=8)
    assert "guided too far" not in found["report"] + told[-1]


def lines_label(preset):
    rule = ", ".join(f"{name} = {value}" for name, value in preset["guidance"].items())
    strengths = f"content {preset['content_strength']:g}, style {preset['style_strength']:g}"
    return f"{preset['method']['method']}, {rule}; {strengths}; {preset['schedule']}"


def test_every_picture_is_the_routers_under_acfg_ksampler(world, journals):
    """The setting of a score can be set by hand, and gives the picture that was scored."""
    search(world, guidances="acfg\ncfg", schedules="constant", methods="craft\nk_lora")
    content, style = references()
    content_judge, style_judge = encoders()
    for label, seed, *scores in lines(journals)[:5]:
        method, strengths, _ = label.split("; ")
        key, rule = method.split(", guidance = ")
        own = [float(part.split()[1]) for part in strengths.split(", ")]
        with torch.inference_mode():
            model, positive, *_ = Router.execute(
                world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, *own, ALL,
                {"method": key},
            ).result  # fmt: skip
        picture = sampled(world, model, positive, seed, rule == "acfg")
        with torch.inference_mode():
            expected = score_pictures(
                [picture], {"content": [content[0]], "style": [style[0]]},
                {"content": content_judge, "style": style_judge},
            ).columns  # fmt: skip
        assert scores == pytest.approx([expected["content"][0], expected["style"][0]], abs=1e-4)


def test_the_model_that_comes_out_is_the_best_one(world, journals):
    found = search(world)
    preset, latest = json.loads(found["preset"]), {}
    for label, seed, content, style in lines(journals):
        if label == lines_label(preset):
            latest = {"seed": seed, "scores": (content, style)}
    picture = sampled(world, found["model"], found["positive"], latest["seed"], found["asymmetric"])
    content, style = references()
    judges = dict(zip(("content", "style"), encoders(), strict=True))
    with torch.inference_mode():
        scorer = PairScorer.of({"content": [content[0]], "style": [style[0]]}, judges)
        assert scorer.scores(picture) == pytest.approx(latest["scores"], abs=1e-4)


def test_a_stopped_search_goes_on_and_ends_as_an_unstopped_one(world, journals, made):
    whole = search(world)
    expected, pictures = lines(journals), list(made)
    (file,) = journals.glob("*.jsonl")
    file.unlink()
    made.clear()
    made.stop = 5
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(world)
    assert lines(journals) == expected[:5]
    made.clear()
    made.stop = 10**9
    found = search(world)
    rules = [rule_in(label) for label, *_ in expected[:5]]
    again = [pictures[rules.index(rule)] for rule in ("acfg", "role")]
    assert made == [*again, *pictures[5:]]  # the first of each rule is made again
    assert lines(journals) == expected
    assert (found["preset"], found["report"]) == (whole["preset"], whole["report"])
    assert torch.equal(found["plot"], whole["plot"])
    made.clear()
    search(world)
    assert made == again


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """What a search gives that is not stopped."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("whole")
        patched.setattr(search_journal, "_folder", lambda: folder)
        return search(world)


@pytest.fixture
def told(monkeypatch):
    """(text, and a preset where there is one) of all that the page is told."""
    found = []
    monkeypatch.setattr(score, "tell", lambda _, *said: found.append(said))
    return found


def told_of(preset, pictures):
    """What the page is told first of a search that was stopped."""
    return (
        f"Stopped after {pictures} of at most {BUDGET} pictures. Run goes on from there.\n"
        f"Best so far: {lines_label(preset)}\nFound among "
    )


@pytest.mark.parametrize("stop", [0, 1, 2, 5, BUDGET - 2])
def test_a_search_that_is_stopped_tells_what_it_found_and_goes_on(
    world, journals, made, told, whole, stop
):
    made.stop = stop
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(world)
    found = [said for said in told if len(said) == 2]
    if stop == 0:
        assert told == []
    else:
        assert told[-1:] == found
        (text, preset), (before,) = told[-1], told[-2]
        preset = json.loads(preset)
        assert text.startswith(told_of(preset, stop))
        assert before.splitlines()[0].endswith(f"best so far: {lines_label(preset)}")
        assert preset["stopped_after"] == stop
        values = node_values(preset)
        assert values.router["method"] == preset["method"]["method"]
        assert values.guidance["cfg"] == CFG
        fresh = max(seed for _, seed, *_ in lines(journals)) - SEED
        if fresh < 2:  # the comparison had not begun
            assert preset["gain_over_first"] is None and "chose nothing" not in text
    told.clear()
    made.stop = len(made)  # in the picture that is made again: it is not known to be of this MODEL
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(world)
    assert told == []
    made.stop = 10**9
    again = search(world)
    assert (again["preset"], again["report"]) == (whole["preset"], whole["report"])
    assert told[-1] == (whole["report"], whole["preset"])


@pytest.mark.parametrize("part", ["so_far", "_outcome"])
def test_what_cannot_be_told_of_a_stopped_search_does_not_hide_why_it_stopped(
    world, journals, made, told, monkeypatch, caplog, part
):
    def fails(*_):
        raise RuntimeError("not to be shown")

    monkeypatch.setattr(Search, part, fails)
    made.stop = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(world)
    assert len(told) == 2 and all(len(said) == 1 for said in told)
    assert "not to be shown" in caplog.text


def test_a_page_that_cannot_be_told_does_not_hide_why_a_search_stopped(
    world, journals, made, monkeypatch
):
    def gone(_, text, *preset):
        if preset:
            raise ConnectionError

    monkeypatch.setattr(score, "tell", gone)
    made.stop = 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(world)


def test_lack_of_memory_in_a_later_setting_leaves_what_was_found(
    world, journals, told, monkeypatch
):
    error, run = torch.OutOfMemoryError("full"), Search.run

    def runs(self, trial, routed):
        if self.done == 3:
            raise error
        run(self, trial, routed)

    monkeypatch.setattr(Search, "run", runs)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        search(world)
    assert raised.value is error
    text, preset = told[-1]
    assert text.startswith(told_of(json.loads(preset), 3))


def test_what_was_found_can_be_told_after_any_picture():
    """Also while some of a rung's settings have a picture more than the best one."""
    content, style = references()
    judges = dict(zip(("content", "style"), encoders(), strict=True))
    scorer = PairScorer.of({"content": [content[0]], "style": [style[0]]}, judges)
    sampling = Sampling([], empty_latent(), None, STEPS, CFG, "euler", "normal")
    settings = settings_of(
        "craft\ndirect\nk_lora", LISTS["guidances"], "0.25, 0.5, 1", LISTS["schedules"],
        ("auto", *OF_MODEL), GUIDANCE,
    )  # fmt: skip
    alone = 0
    for seed in range(2):
        draw = random.Random(seed).random
        request = SearchRequest(
            ("a", "b"), RouterRequest(PROMPT, (), "all", {}), settings, sampling, scorer, 0.5,
            seed, 40,
        )  # fmt: skip
        search = Search(None, None, request, search_journal.SearchJournal(None))
        assert not search.has_best
        while trials := search.pending():
            for trial in trials:
                search.journal.add(search._key(trial), (draw(), draw()))
                search._take_up([trial])
                rows = search.rows()
                (best,) = (row for row in rows if row.setting == settings[search.chosen])
                alone += best.together.n == 1 and any(row.together.n > 1 for row in rows)
                report, preset = search.so_far([])
                assert report.startswith(f"Stopped after {search.done} of at most ")
                assert "Run goes on" not in report  # nothing was kept
                preset = json.loads(preset)
                assert node_values(preset) and len(preset["frontier"]) <= 24
                assert lines_label(preset) == settings[search.chosen].label
                compared = any(one.seed >= search.plan.seeds for one in search._scores)
                assert compared or search.gain() is None
    assert alone


def test_more_budget_uses_the_pictures_that_there_are(world, journals, made):
    search(world, schedules="constant")
    first = len(made)
    search(world, schedules="constant", budget=2 * BUDGET)
    assert len(made) - first < 2 * BUDGET - 1


def test_a_journal_of_another_model_is_not_taken_up(world, journals, made):
    search(world, schedules="constant")
    other = world.with_loras((small.STYLE, 1.0)).model
    made.clear()
    again = search(world, other, schedules="constant")
    assert len(made) == len(lines(journals))  # those that showed it are kept
    journals_alone = sorted(lines(journals))
    (file,) = journals.glob("*.jsonl")
    file.unlink()
    assert search(world, other, schedules="constant")["preset"] == again["preset"]
    assert sorted(lines(journals)) == journals_alone


def test_scores_of_a_model_that_differs_under_one_rule_alone_are_not_taken_up(
    world, journals, made
):
    """At cfg 1 nothing goes beyond the prediction under the prompt but a rule with weights."""

    def changed(more):
        model = world.model.clone()
        model.set_model_sampler_post_cfg_function(
            lambda given: given["denoised"] + more * (given["denoised"] - given["cond_denoised"])
        )
        return model

    given = {
        "schedules": "constant", "methods": "direct", "guidances": "acfg\nrole: weight = 3",
        "cfg": 1.0, "budget": 16,
    }  # fmt: skip
    search(world, changed(0.0), **given)
    again = search(world, changed(2.0), **given)
    known = {(label, seed): scores for label, seed, *scores in lines(journals)}
    assert len(known) == len(lines(journals))
    (file,) = journals.glob("*.jsonl")
    file.unlink()
    alone = search(world, changed(2.0), **given)
    for label, seed, *scores in lines(journals):
        assert known[label, seed] == pytest.approx(scores, abs=1e-4)
    assert alone["preset"] == again["preset"]


def test_a_journal_without_a_setting_that_shows_its_model_is_not_taken_up(world, journals, made):
    search(world, methods="direct", schedules="constant")
    other = world.with_loras((small.STYLE, 1.0)).model
    made.clear()
    search(world, other, methods="craft", schedules="constant")
    assert len(made) == len(lines(journals))
    assert {label.split(",")[0] for label, *_ in lines(journals)} == {"craft"}


DAMAGES = [
    b"[1, 2", b"", b"no json", b'["a", 1, "x", 2]', b"3", b'["a", Infinity, 1, 1]',
    b'["a", 1, NaN, 0.5]', b'["a", 1, 0.5, Infinity]', b'["a", 1, 0.5, 1' + b"0" * 400 + b"]",
    b"[" * 100_000, b"\xff", b'["a", 1, 0.5',
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: ascii(damage[:30]))
def test_a_damaged_line_of_a_journal_is_left_out(journals, damage):
    journal = search_journal.SearchJournal.of(["a"])
    known = {("setting", 3): (0.25, 0.5), ("setting", 4): (0.5, 0.25)}
    first, second = known.items()
    journal.add(*first)
    with journal.path.open("ab") as file:
        file.write(damage)
    assert search_journal.SearchJournal.of(["a"]).scores == dict([first])
    journal.add(*second)
    assert search_journal.SearchJournal.of(["a"]).scores == known
    assert search_journal.SearchJournal.of(["b"]).scores == {}


def test_a_journal_that_cannot_be_removed_is_no_fault(journals, monkeypatch):
    journal = search_journal.SearchJournal.of(["a"])
    journal.add(("setting", 3), (0.25, 0.5))

    def refused(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(type(journal.path), "unlink", refused)
    journal.forget([("setting", 3)])
    journal.add(("setting", 4), (0.5, 0.25))
    assert journal.scores == {("setting", 4): (0.5, 0.25)}
    assert len(lines(journals)) == 1


def test_a_journal_is_of_all_that_pictures_and_scores_depend_on():
    zeros = torch.zeros(2, 3)
    parts = [
        "a", "b", 1, 1.5, None, zeros, zeros + 1, zeros.half(), zeros.T, torch.zeros(()), [zeros],
        [], {}, {"a": zeros}, {"b": zeros}, {"a": zeros + 1}, [[zeros, {"pooled_output": zeros}]],
        [[zeros, {"pooled_output": zeros + 1}]],
    ]  # fmt: skip
    paths = [search_journal.SearchJournal.of(part).path for part in parts]
    assert len(set(paths)) == len(parts)
    again = search_journal.SearchJournal.of({"b": [1], "a": zeros.clone()}).path
    assert again == search_journal.SearchJournal.of({"a": zeros, "b": [1]}).path


def test_another_negative_prompt_noise_mask_or_reference_is_another_search(world, journals):
    given = {"methods": "craft", "schedules": "constant", "budget": 4}
    search(world, **given)
    search(world, **given)
    assert len(list(journals.glob("*"))) == 1
    content, _ = references()
    others = [
        {"negative": world.encode("blurred")},
        {"latent": {**empty_latent(), "batch_index": [3]}},
        {"latent": {**empty_latent(), "noise_mask": torch.ones(1, 64, 64)}},
        {"content_reference": content[0].flip(1)},
    ]
    for count, other in enumerate(others, 2):
        search(world, **given, **other)
        assert len(list(journals.glob("*"))) == count


@pytest.mark.parametrize("role", ["content", "style"])
def test_the_whole_weight_is_for_one_role(world, journals, role):
    found = search(world, content_weight=float(role == "content"), methods="craft", budget=8)
    preset = json.loads(found["preset"])
    own = [scores for label, _, *scores in lines(journals) if label == lines_label(preset)]
    expected = [max(0.0, one[0] if role == "content" else one[1]) for one in own]
    scores = {one["measure"]: one["mean"] for one in preset["scores"]}
    assert scores["harmonic mean"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_a_picture_that_is_broken_scores_nothing(world):
    content, style = references()
    judges = dict(zip(("content", "style"), encoders(), strict=True))
    with torch.inference_mode():
        scorer = PairScorer.of({"content": [content[0]], "style": [style[0]]}, judges)
        assert scorer.scores(torch.full((1, 64, 64, 3), torch.nan)) == (0.0, 0.0)


def test_a_method_whose_blocks_the_model_lacks_is_left_out():
    lists = {**LISTS, "methods": "b_lora\ndirect", "schedules": "constant"}
    settings = settings_of(*lists.values(), ("auto", *OF_MODEL), GUIDANCE)
    request = SearchRequest(("a", "b"), None, settings, None, None, 0.5, 0, 8)
    found, left_out = fitting_request(request, tiny.flux())
    assert {one.line.method.key for one in found.settings} == {"direct"}
    assert len(left_out) == 1 and left_out[0].startswith("b_lora is left out: ")
    only = replace(request, settings=settings[:4])
    with pytest.raises(CraftError, match="0 of the settings can run"):
        fitting_request(only, tiny.flux())


def test_what_no_search_can_do_is_said(world, journals):
    for given, why in (
        ({"content_lora": "none"}, "A LoRA is not chosen"),
        ({"content_reference": torch.zeros(0, 8, 8, 3)}, "There is no content_reference"),
    ):
        with pytest.raises(CraftError, match=why):
            search(world, **given)
    answer = FindBest.validate_inputs(PROMPT, **{**LISTS, "strengths": "a"}, layer_sets=ALL)
    assert "strengths is 'a'" in answer
    assert FindBest.validate_inputs(PROMPT, **LISTS, layer_sets=ALL) is True
