"""Which method joins a content LoRA and a style LoRA best, on held-out LoRAs of the small world?

    python run.py bench methods [--limit 18] [--each 6] [--pictures 2] [--out DIR] [--plot FILE]
                                [--shown FILE]
    python run.py bench methods --world drawings ...

Every run-time and every file method of this pack, each under standard guidance and under ACFG:

1. LoRAs of held-out objects and styles are trained with the shipped recipe, and each by itself must
   be right in 80 % of 24 pictures; those that are not are named, and left out.
2. On the *tuning* half cfg and strength of every method under every rule are chosen from as many
   points for either rule: standard .7, 1, 1.3, 1.6 at cfg 3 and 1, 1.3 at cfg 2; ACFG, which
   multiplies the LoRAs by cfg, .5, .75, 1, 1.25 at cfg 2 and .5, .7 at cfg 3. The highest mean
   score wins. Where that is the highest or lowest strength tried at its cfg, one 1.25 times as high
   or low is tried too, up to --beyond times, so that no row stands lower for its grid's end; rows
   that still end there are named. From here on it is fixed. (--grid strength has --cfg alone, with
   strengths .7, 1, 1.3, 1.6 and .25, .35, .5, .7.) The direct merge is measured under role
   guidance, too: LoRAs at strength 1, and in the strength's place one weight of both roles, 1, 1.5
   and 2 at cfg 3, 1.5, 2 and 2.5 at cfg 2.
3. On the *report* half, whose objects and styles no setting was chosen on, every object is joined
   with --each styles (an incomplete design), --pictures pictures a pair. Every pair has
   noise of its own, the same for every method.
4. All of that on LoRAs of one training seed; the report half on as many as --lora-seeds says, with
   the same settings and noise. An object or style is left out if any of its LoRAs is not right by
   itself. The table is of all of them, with a column for each seed.

The score of a picture is geo = sqrt(content cosine x style cosine) to one picture each of what the
LoRAs learned, the mean of two judges. A method's figure is the share of the way from
no LoRA (0) to true renders of the same pairs (1). 95 % intervals draw objects and styles again.
`less direct` is the difference to the direct merge under standard guidance at its own tuned
cfg and strength, in the same draws; p is corrected for all rows (Holm 1979). How large a true
difference would have to be to be found in 80 % of such measurements is said above the table. A
LoRA's training seed is not drawn by itself: an object that is drawn brings its LoRAs along. `no
LoRA` and one LoRA alone at --cfg, the true render, and references of other pairs (chance) frame the
table.

Ways that train something for each pair are measured where --ways names them, best with a smaller
--limit: merges that are learned, B4M, both LoRAs trained jointly, LoRAs on the layers of their
roles alone, and those with the basis, with an expert encoder and with the schedule, which is
CRAFT-LoRA whole (benchmarks/parts/trained_ways.py). So are the ablations of K-LoRA and DuoLoRA.

--world drawings asks the same of real drawings: objects by several emoji sets, where a style is a
set. They are fetched, and base model and judges trained on them, by `python -m
small_world.drawings` beforehand, see small_world/README.md.

--plot draws content against style. --shown draws what every way makes, under its better rule, of
the pairs whose mean score over all rows is nearest the median's: the first picture of each, by the
first LoRAs.

Results are journalled in --out: a run that was stopped, or given more to do, goes on. The folder of
`python -m small_world.train gates` serves for the LoRAs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from benchmarks.parts.method_figures import (  # noqa: E402
    Interval,
    Row,
    best_point,
    columns,
    correlation,
    differences,
    levels,
    smallest_found,
    table,
)
from benchmarks.parts.method_pictures import (  # noqa: E402
    best_of_each,
    median_pairs,
    pairs_sheet,
)
from benchmarks.parts.method_runs import (  # noqa: E402
    CHANCE,
    NOTHING,
    OWN_POINT,
    OWN_VALUES,
    ROLE,
    RULES,
    TRUTH,
    UNTRAINED,
    WAYS,
    Job,
    Journal,
    Lab,
    Workers,
    alone_key,
)
from small_world.drawings.__main__ import drawings_cache  # noqa: E402
from small_world.train.__main__ import CHECKPOINT, MODELS, training_cache  # noqa: E402
from small_world.train.measuring.worlds import SMALL_WORLD, World  # noqa: E402

BASIS = Path("craft_bases") / "craft_small_world_basis.safetensors"
WORLDS = ("small", "drawings")
GRIDS = {
    "cfg": {
        "standard": ((3.0, 0.7), (3.0, 1.0), (3.0, 1.3), (3.0, 1.6), (2.0, 1.0), (2.0, 1.3)),
        "ACFG": ((3.0, 0.5), (3.0, 0.7), (2.0, 0.5), (2.0, 0.75), (2.0, 1.0), (2.0, 1.25)),
        ROLE: ((3.0, 1.0), (3.0, 1.5), (3.0, 2.0), (2.0, 1.5), (2.0, 2.0), (2.0, 2.5)),
    },
    "strength": {
        "standard": tuple((None, strength) for strength in (0.7, 1.0, 1.3, 1.6)),
        "ACFG": tuple((None, strength) for strength in (0.25, 0.35, 0.5, 0.7)),
        ROLE: tuple((None, weight) for weight in (1.0, 1.5, 2.0, 3.0)),
    },
}  # (cfg, None for --cfg, and strength)
ROLES, FEWEST = ("content", "style"), 2
STEP, STEPS = 1.25, 4  # how a grid goes on where the best lies at its end, and --beyond
REFERENCE = "direct, standard"
FRAME = (NOTHING, "content alone", "style alone")  # not tuned: strength 1, standard guidance
FIXED = {OWN_VALUES: OWN_POINT}  # not tuned, but compared as the tuned ones are
Pair = tuple[str, str]
Point = tuple[float | None, float]  # cfg, None for --cfg, and strength


def grid(rule: str, cfg: float, which: str = "cfg") -> list[Point]:
    """The points of a rule. cfg, which: --cfg and --grid."""
    return [(None if own == cfg else own, strength) for own, strength in GRIDS[which][rule]]


def jobs_at(way: str, rule: str, point: Point, pairs: Sequence[Pair],
            lora_seed: int = 0) -> dict[Pair, Job]:  # fmt: skip
    """A run for each pair."""
    cfg, strength = point
    seed = 0 if way == TRUTH else lora_seed
    return {pair: Job(way, rule, strength, *pair, cfg, seed) for pair in pairs}


def design(contents: Sequence[str], styles: Sequence[str], each: int) -> list[Pair]:
    """Every content with `each` styles, all of them equally often, but for one where the contents
    are not as many."""
    each = min(each, len(styles))
    return [
        (content, styles[(k + turn) % len(styles)])
        for turn in range(each)
        for k, content in enumerate(contents)
    ]


def tuned_ways(chosen: Sequence[str]) -> list[tuple[str, str]]:
    """(way, rule) of every row that has cfg and strength to choose."""
    tuned = [way for way in chosen if way not in (*FRAME, *FIXED)]
    return [(way, rule) for way in tuned for rule in WAYS[way].rules]


def held(journal: Journal, way: str, rule: str, point: Point, pairs: Sequence[Pair],
         lora_seeds: Sequence[int] = (0,)) -> Mapping:  # fmt: skip
    """{pair: result} of those pairs that are measured, the pictures of all seeds together."""
    keys = [jobs_at(way, rule, point, pairs, seed) for seed in lora_seeds]
    of = {pair: [jobs[pair].key for jobs in keys] for pair in pairs}
    return {
        pair: [row for one in some for row in journal.results[one]]
        for pair, some in of.items()
        if all(one in journal.results for one in some)
    }


def main() -> None:
    options = _options()
    lab = Lab(options.checkpoint.resolve(), Path(os.environ["COMFYUI_PATH"]).resolve(),
              options.out.resolve(), options.pictures, options.steps, options.cfg,
              options.divide_steps, options.basis.resolve(), options.world)  # fmt: skip
    journal = Journal(options.out / "methods.jsonl", lab.made_for())
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - begun:.0f} s] {what}", file=sys.stderr, flush=True)

    ways, seeds = options.ways or [OWN_VALUES, *UNTRAINED], range(options.lora_seeds)
    halves = {
        half: tuple(names[: size or None] for names in lab.world.halves[half])
        for half, size in (("tuning", options.tuning), ("report", options.limit))
    }
    workers = Workers(lab, options.workers, options.threads)
    try:
        passed = {
            half: gated(workers, journal, names, options.enough, say, seeds_of(half, seeds))
            for half, names in halves.items()
        }
        for half, names in passed.items():
            if min(map(len, names)) < FEWEST:
                print(failures(journal, halves, options.enough, seeds))
                raise SystemExit(
                    f"Of the {half} half fewer than {FEWEST} objects or styles are left: see "
                    "--enough and --limit."
                )
        tuning = design(*passed["tuning"], options.tuning_each)
        report = design(*passed["report"], options.each)
        points, at_end = tune(workers, journal, ways, tuning, options, say)
        jobs = [Job(TRUTH, "", 0.0, *pair) for pair in report]
        settled = {(way, "standard"): (None, 1.0) for way in FRAME}
        settled |= points | fixed(ways, options.cfg)
        chance = {}
        for seed in seeds:
            for (way, rule), point in settled.items():
                jobs += jobs_at(way, rule, point, report, seed).values()
            direct = jobs_at("direct", "standard", points["direct", "standard"], report, seed)
            chance |= {direct[pair]: other for pair, other in strangers(report).items()}
        say(f"report: {len(jobs)} runs of {options.pictures} pictures")
        workers.do(jobs, journal, say, chance)
        points |= fixed(ways, options.cfg)
        rows, text = said(options, journal, points, report)
        if options.shown:
            write_shown(options.shown, workers, journal, points, rows, report, lab.world)
    finally:
        workers.close()
    print(failures(journal, halves, options.enough, seeds))
    best = best_on(journal, {key: points[key] for key in tuned_ways(ways)}, tuning, options.cfg)
    print(f"best on the tuning half: {best}")
    print(f"at an end of what was tried: {', '.join(map(', '.join, at_end)) or 'none'}\n")
    print(text)
    if options.plot:
        pictures = len(report) * options.pictures * options.lora_seeds
        write_plot(options.plot, rows, pictures, lab.world.name)


def seeds_of(half: str, seeds: Sequence[int]) -> Sequence[int]:
    """The LoRA seeds of a half: what is tuned on has one."""
    return seeds if half == "report" else seeds[:1]


def gated(workers: Workers, journal: Journal, names: tuple, enough: float, say,
          seeds: Sequence[int]) -> tuple:  # fmt: skip
    """The objects and styles whose LoRA by itself is right often enough, by both judges' mean, in
    every seed."""
    each = list(zip(ROLES, names, strict=True))
    asked = [(role, name, seed) for seed in seeds for role, some in each for name in some]
    workers.alone(asked, journal, say)
    return tuple(
        tuple(
            name
            for name in some
            if all(mean_alone(journal, role, name, seed) >= enough for seed in seeds)
        )
        for role, some in each
    )


def mean_alone(journal: Journal, role: str, name: str, seed: int = 0) -> float:
    rights = journal.results[alone_key(role, name, seed)]
    return sum(rights) / len(rights)


def failures(journal: Journal, halves: Mapping, enough: float, seeds: Sequence[int] = (0,)) -> str:
    """How many LoRAs are right by themselves, and those that are not."""
    lines = []
    for half, names in halves.items():
        for role, some in zip(ROLES, names, strict=True):
            rights = {
                f"{name} (seed {seed})" if seed else name: mean_alone(journal, role, name, seed)
                for seed in seeds_of(half, seeds)
                for name in some
            }
            failed = [f"{n} {right:.2f}" for n, right in rights.items() if right < enough]
            lines.append(
                f"{half}, {role} LoRAs right in {enough:.0%} of their pictures or more: "
                f"{len(rights) - len(failed)} of {len(rights)}"
                + (f"; left out: {', '.join(failed)}" if failed else "")
            )
    return "\n".join(lines) + "\n"


def tune(workers: Workers, journal: Journal, ways: Sequence[str], pairs: Sequence[Pair], options,
          say) -> tuple[dict, list]:  # fmt: skip
    """What `choose` gives once the grids have gone on as far as they do; and the rows that still
    are at an end."""
    grids = {key: grid(key[1], options.cfg, options.grid) for key in tuned_ways(ways)}
    for more in range(options.beyond + 1):
        jobs = [
            job
            for (way, rule), points in grids.items()
            for point in points
            for job in jobs_at(way, rule, point, pairs).values()
        ]
        say(f"tuning: {len(jobs)} runs of {options.pictures} pictures")
        workers.do(jobs, journal, say)
        chosen = choose(journal, grids, pairs)
        further = {key: beyond(chosen[key], grids[key]) for key in grids}
        at_end = [key for key, point in further.items() if point is not None]
        if not at_end or more == options.beyond:
            break
        for key in at_end:
            grids[key].append(further[key])
    return chosen, at_end


def beyond(best: Point, points: Sequence[Point]) -> Point | None:
    """The next strength where the best one is the highest or the lowest at its cfg; None within."""
    cfg, strength = best
    tried = [own for other, own in points if other == cfg]
    if strength == max(tried):
        return cfg, round(strength * STEP, 3)
    return (cfg, round(strength / STEP, 3)) if strength == min(tried) else None


def fixed(ways: Sequence[str], cfg: float) -> dict[tuple[str, str], Point]:
    """{(way, rule): its point} of those that are compared and not tuned."""
    return {
        (way, rule): (None if own == cfg else own, strength)
        for way, (rule, (own, strength)) in FIXED.items()
        if way in ways
    }


def choose(journal: Journal, grids: Mapping[tuple[str, str], Sequence[Point]],
           pairs: Sequence[Pair]) -> dict:  # fmt: skip
    """{(way, rule): the point with the highest mean score on the tuning pairs}."""
    return {
        (way, rule): best_point({
            point: held(journal, way, rule, point, pairs) for point in points
        })
        for (way, rule), points in grids.items()
    }  # fmt: skip


def best_on(journal: Journal, points: Mapping, pairs: Sequence[Pair], cfg: float) -> str:
    """The way, rule, cfg and strength with the highest mean geo over the pairs."""
    means = {
        (way, rule): np.mean([
            columns(rows, None)[0] for rows in held(journal, way, rule, point, pairs).values()
        ])
        for (way, rule), point in points.items()
    }  # fmt: skip
    best = max(means, key=lambda one: means[one])
    at = named(points[best], cfg, best[1])
    return f"{', '.join(best)}, {at}, geo {means[best]:.3f}"


def named(point: Point, cfg: float, rule: str) -> str:
    own, strength = point
    what = "weight" if rule == ROLE else "strength"
    return f"cfg {cfg if own is None else own:g}, {what} {strength:g}"


def strangers(pairs: Sequence[Pair]) -> dict[Pair, Pair]:
    """For each pair another of the design that shares neither content nor style with it, and a
    different one for each as far as there are such; pairs that share with all have none."""
    found, free = {}, list(pairs)
    for k, pair in enumerate(pairs):
        others = [*pairs[(k + len(pairs) // 2) % len(pairs) :], *pairs]
        fits = [one for one in others if one[0] != pair[0] and one[1] != pair[1]]
        if fits:
            found[pair] = next((one for one in fits if one in free), fits[0])
            free = [one for one in free if one != found[pair]]
    return found


def held_chance(journal: Journal, point: Point, pairs: Sequence[Pair],
                lora_seeds: Sequence[int]) -> Mapping:  # fmt: skip
    """What `held` gives, of the direct merge's pictures scored against other pairs."""
    others = strangers(pairs)
    of = {pair: [jobs_at("direct", "standard", point, [pair], seed)[pair].against(other)
                 for seed in lora_seeds] for pair, other in others.items()}  # fmt: skip
    return {
        pair: [row for one in some for row in journal.results[one]]
        for pair, some in of.items()
        if all(one in journal.results for one in some)
    }


def said(options, journal: Journal, points: Mapping,
         pairs: Sequence[Pair]) -> tuple[list[Row], str]:  # fmt: skip
    """The tuned rows, and the table in Markdown: by both judges and all LoRAs, then the share of
    each judge, and of each seed of the LoRAs."""
    seeds = range(options.lora_seeds)

    def results(some: Sequence[int]) -> dict[str, Mapping]:
        found = {way: held(journal, way, "standard", (None, 1.0), pairs, some) for way in FRAME}
        found |= {
            f"{way}, {rule}": held(journal, way, rule, point, pairs, some)
            for (way, rule), point in points.items()
        }
        found[TRUTH] = held(journal, TRUTH, "", (None, 0.0), pairs, some)
        found[CHANCE] = held_chance(journal, points["direct", "standard"], pairs, some)
        return found

    at = {f"{way}, {rule}": named(point, options.cfg, rule).replace("strength ", "")
          for (way, rule), point in points.items()}  # fmt: skip
    whole = results(seeds)
    rows = table(whole, NOTHING, TRUTH, REFERENCE)
    apart = {f"judge {k + 1}": table(whole, NOTHING, TRUTH, REFERENCE, k) for k in (0, 1)}
    if len(seeds) > 1:
        apart |= {f"LoRAs {k + 1}": table(results([k]), NOTHING, TRUTH, REFERENCE) for k in seeds}
    tuned = [row for row in rows if row.name in at]
    corrected = _corrected(tuned)
    heads = ["method, guidance", "cfg, strength", "share of the way", "less direct", "p",
             "content", "style", "both right", *apart]  # fmt: skip
    lines = [
        f"{len(pairs)} pairs of {len({c for c, _ in pairs})} held-out objects and "
        f"{len({s for _, s in pairs})} held-out styles, {len(seeds) * options.pictures} pictures "
        f"a pair, {options.steps} steps, rows without a strength at cfg {options.cfg:g}",
        *_power(tuned, pairs),
        *_agreement(apart, at),
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    order = sorted(range(len(rows)), key=lambda k: -rows[k].way.value)
    for k in order:
        row = rows[k]
        p = corrected.get(row.name)
        lines.append(
            f"| {row.name} | {at.get(row.name, '')} | {row.way.said()} | "
            f"{row.less.said(signed=True) if row.less and row.name in at else ''} | "
            f"{_said_p(p)} | {row.content.value:.2f} | {row.style.value:.2f}"
            f" | {row.both.said()} | "
            + " | ".join(f"{some[k].way.value:.2f}" for some in apart.values()) + " |"
        )  # fmt: skip
    return tuned, "\n".join([*lines, *_rules(whole, points)])


def _said_p(p: float | None) -> str:
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else "<.001"


def _power(rows: Sequence[Row], pairs: Sequence[Pair]) -> list[str]:
    """How large a true difference to the reference must be to be found."""
    errors = sorted(row.error for row in rows if row.error is not None)
    if not errors:
        return []
    places = {"steadiest": errors[0], "middle": errors[(len(errors) - 1) // 2],
              "least steady": errors[-1]}  # fmt: skip
    count = levels(pairs)
    said = (
        f"{smallest_found(error, count):.3f} ({smallest_found(error, count, len(errors)):.3f}) in "
        f"the {place} row"
        for place, error in places.items()
    )
    return [f"a true difference to {REFERENCE} is found in 80 % of such measurements, before (and "
            f"at the first step of) the correction, from {', '.join(said)} on"]  # fmt: skip


def _rules(results: Mapping[str, Mapping], points: Mapping) -> list[str]:
    """A table of every way under ACFG less itself under standard guidance."""
    both = [way for way, rule in points if rule == RULES[0] and (way, RULES[1]) in points]
    compared = [tuple(f"{way}, {rule}" for rule in reversed(RULES)) for way in both]
    found = differences(results, compared, NOTHING, TRUTH)
    return [
        "",
        f"| {RULES[1]} less {RULES[0]} | share of the way | content | style |",
        "|---" * 4 + "|",
        *(f"| {way} | {' | '.join(one.said(signed=True) for one in found[names])} |"
          for way, names in zip(both, compared, strict=True)),
    ]  # fmt: skip


def _agreement(apart: Mapping[str, Sequence[Row]], tuned: Mapping) -> list[str]:
    """The rank correlation of the rows' order by either judge, and by either seed."""
    order = {name: [row.way.value for row in some if row.name in tuned]
             for name, some in apart.items()}  # fmt: skip
    return [
        f"rank correlation of {kind} 1 and {kind} 2 over {len(tuned)} rows: "
        f"{correlation(order[f'{kind} 1'], order[f'{kind} 2']):.2f}"
        for kind in ("judge", "LoRAs")
        if f"{kind} 2" in order and len(tuned) > 2
    ]


def write_plot(path: Path, rows: Sequence[Row], pictures: int,
               world: str = SMALL_WORLD.name) -> None:  # fmt: skip
    """Content against style: a point for every row with its intervals, and the frontier."""
    from launcher.pack import as_package

    as_package()
    from craft_lora_pack.comfy_adapter.draw.score_plot import score_sheet
    from craft_lora_pack.craft_core.evaluation import Point, Score

    def score(axis: str, of: Interval) -> Score:
        over = ("contents", "styles")
        return Score(axis, of.value, of.low, of.high, pictures, over, f"{world} judges", "none")

    points = [
        Point(row.name, score("content", row.content), score("style", row.style)) for row in rows
    ]
    sheet = score_sheet(points, f"Two LoRAs of the {world}: methods under either guidance")
    sheet.quantize(64).save(path, optimize=True)
    print(f"wrote {path}")


def write_shown(path: Path, workers: Workers, journal: Journal, points: Mapping,
                rows: Sequence[Row], report: Sequence[Pair], world: World) -> None:  # fmt: skip
    """What every way makes of some pairs, between no LoRA and the true render."""
    keys = {f"{way}, {rule}": (way, rule) for way, rule in points}
    results = [held(journal, *key, point, report) for key, point in points.items()]
    pairs = median_pairs(results)
    best = best_of_each(rows, keys)
    asked = {"true render": (TRUTH, "", (None, 0.0))}
    asked |= {f"{row.name}\n{row.way.value:.2f}": (*keys[row.name], points[keys[row.name]])
              for row in best}  # fmt: skip
    asked[NOTHING] = (NOTHING, "standard", (None, 1.0))
    jobs = [job for one in asked.values() for job in jobs_at(*one, pairs).values()]
    drawn = iter(workers.first_pictures(jobs))
    sheet = pairs_sheet(
        pairs,
        {pair: world.references(*pair) for pair in pairs},
        {label: [next(drawn) for _ in pairs] for label in asked},
    )
    sheet.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}")


def _corrected(rows: Sequence[Row]) -> dict[str, float]:
    sys.path.insert(0, str(ROOT))
    from craft_core.evaluation.holm import holm

    compared = [row for row in rows if row.p is not None]
    return dict(zip((row.name for row in compared), holm([row.p for row in compared]), strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS,
                        help="default: all that train nothing for a pair")  # fmt: skip
    parser.add_argument("--limit", type=int, default=18, help="objects, and styles, of the report")
    parser.add_argument("--each", type=int, default=6, help="styles that an object is joined with")
    parser.add_argument("--tuning", type=int, default=6, help="objects, and styles, to tune on")
    parser.add_argument("--tuning-each", type=int, default=3)
    parser.add_argument("--lora-seeds", type=int, default=2, help="trainings of the LoRAs")
    parser.add_argument("--pictures", type=int, default=2, help="of a pair and a training")
    parser.add_argument("--steps", type=int, default=12, help="of a picture")
    parser.add_argument("--cfg", type=float, default=3.0, help="of rows that are not tuned")
    parser.add_argument("--grid", choices=GRIDS, default="cfg", help="what is tuned")
    parser.add_argument("--beyond", type=int, default=STEPS,
                        help="how often a grid goes on where the best lies at its end")  # fmt: skip
    parser.add_argument("--enough", type=float, default=0.8,
                        help="share of a LoRA's own pictures that must be right")  # fmt: skip
    parser.add_argument("--divide-steps", type=int, default=1, help="of the LoRAs, to rehearse")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--world", choices=WORLDS, default=WORLDS[0], help="of the pictures")
    parser.add_argument("--drawings", type=Path, default=drawings_cache(), metavar="FOLDER",
                        help=f"of the world of that name; default: {drawings_cache()}")  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, help="default: the world's")
    parser.add_argument("--basis", type=Path, default=MODELS / BASIS)
    default = training_cache().with_name("small_world_gates")
    parser.add_argument("--out", type=Path, help=f"default: {default}, or in FOLDER")
    parser.add_argument("--plot", type=Path, help="a picture of content against style")
    parser.add_argument("--shown", type=Path, help="a picture of median pairs by every way")
    options = parser.parse_args()
    models, out = MODELS, default
    if options.world == "drawings":
        models, out = options.drawings / "models", options.drawings / "measured"
    options.world = _world(options.world, options.drawings, models)
    options.checkpoint, options.out = options.checkpoint or models / CHECKPOINT, options.out or out
    options.out.mkdir(parents=True, exist_ok=True)
    pairwise = [name for name in options.ways or () if WAYS[name].trained]
    if pairwise and options.lora_seeds > 1:
        parser.error(f"{', '.join(pairwise)}: trained for each pair, on LoRAs of one seed alone. "
                     "Add --lora-seeds 1, or leave them out of --ways.")  # fmt: skip
    required = {"direct", *FRAME}
    options.ways = options.ways and [w for w in WAYS if w in {*options.ways, *required}]
    return options


def _world(name: str, drawings: Path, models: Path) -> World:
    if name == "small":
        return SMALL_WORLD
    from small_world.drawings.world import drawings_world

    return drawings_world(drawings.resolve(), models.resolve())


if __name__ == "__main__":
    main()
