"""Pictures scored against one content's and one style's references and against their prompts, and
what a reader needs."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import (
    PictureEncoder,
    Point,
    RoleFeatures,
    Score,
    mean_score,
    pair_columns,
    similarity,
)
from ...craft_core.types import Role
from .prompts import TEXT, PromptLook

ROLES: tuple[Role, Role] = ("content", "style")
OTHER: dict[Role, Role] = {"content": "style", "style": "content"}
ALL = "all pictures"
INTERVAL = "95 % intervals over these pictures, which say nothing of other contents and styles."


@dataclass(frozen=True)
class PictureScores:
    """names: of the n pictures. columns: {measure: n scores}. means: for each name that several
    pictures share, or for all pictures, its Scores. likeness: for each encoder the cosine between
    the content's and the style's references, where there are both. encoders: by role, and by `text`
    where prompts were scored. notes: what a reader must know of the latter."""

    names: tuple[str, ...]
    columns: dict[str, list[float]]
    means: dict[str, list[Score]]
    encoders: dict[str, PictureEncoder | PromptLook]
    likeness: dict[Role, float]
    notes: tuple[str, ...] = ()


def picture_names(names: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
    """One name a picture. counts: pictures of each batch.

    names: none (the pictures are numbered), one for each picture, one for each batch, or one for
    all; a single text for several pictures is read line by line. CraftError for another number.
    """
    total = sum(counts)
    if not any(name.strip() for name in names):
        return tuple(str(index + 1) for index in range(total))
    lines = len(names) == 1 < total
    return one_each(names[0].strip().split("\n") if lines else names, counts, "names")


def one_each(given: Sequence[str], counts: Sequence[int], noun: str) -> tuple[str, ...]:
    """One text a picture. counts: pictures of each batch. given: one for each picture, one for each
    batch, or one for all; CraftError for another number of them. noun: "names"."""
    total = sum(counts)
    if len(given) == total:
        return tuple(given)
    if len(given) == len(counts):
        return tuple(text for text, count in zip(given, counts, strict=True) for _ in range(count))
    if len(given) == 1:
        return (given[0],) * total
    raise CraftError(
        f"There are {len(given)} {noun} for {total} pictures in {len(counts)} batches",
        "Each picture has one of its own, or each batch, or all have the same",
        f"Connect {noun} from the node that the pictures come from, or disconnect them",
    )


def score_pictures(
    batches: Sequence[Tensor],
    references: Mapping[Role, Sequence[Tensor]],
    encoders: Mapping[Role, PictureEncoder],
    names: Sequence[str] = (),
    prompts: PromptLook | None = None,
) -> PictureScores:
    """Batches (b, h, w, 3) of any sizes, in their order. references: batches by role; a role
    without any is not scored. encoders: of both roles; one for both may stand twice. prompts: what
    looks at them, by the pictures' features of content's encoder; None where they are not scored.

    CraftError without pictures, without references or prompts, or for pictures not finite.
    """
    counts = [len(batch) for batch in batches]
    if not sum(counts):
        raise CraftError("There is no picture", "Scores are of pictures", "Connect images")
    given: dict[Role, Sequence[Tensor]] = {
        role: found
        for role in ROLES
        if (found := [one for one in references.get(role, ()) if one is not None and len(one)])
    }
    if not given and prompts is None:
        raise CraftError(
            "There is no reference",
            "Pictures are compared with those that the content or the style was learned from",
            "Connect content_reference, style_reference or both",
        )
    titles = picture_names(names, counts)
    texts = one_each(prompts.prompts, counts, "prompts") if prompts else ()
    apart = len(set(encoders.values())) > 1
    roles = [role for role in ROLES if given and (apart or role in given)]
    looking = [encoders[role] for role in (*roles, *(["content"] if prompts else []))]
    looks = {
        encoder: _Look(
            features_of(encoder, batches, "images"),
            {role: features_of(encoder, given[role], f"{role}_reference") for role in given},
        )
        for encoder in dict.fromkeys(looking)
    }
    seen = {role: looks[encoders[role]] for role in roles}
    columns = pair_columns(
        {
            role: RoleFeatures(
                look.pictures,
                look.references.get(role),
                look.references.get(OTHER[role]) if apart else None,
            )
            for role, look in seen.items()
        }
    )
    used: dict[str, PictureEncoder | PromptLook] = {role: encoders[role] for role in roles}
    if prompts:
        columns[TEXT] = prompts.scores(looks[encoders["content"]].pictures, texts)
        used[TEXT] = prompts
    values = {measure: column.tolist() for measure, column in columns.items()}
    likeness = {
        role: float(similarity(look.references[role], look.references[OTHER[role]]).mean())
        for role, look in seen.items()
        if len(look.references) == len(ROLES)
    }
    notes = prompts.notes(texts) if prompts else ()
    return PictureScores(titles, values, _means(titles, values, used), used, likeness, notes)


def encoder_lines(encoders: Mapping[Any, PictureEncoder | PromptLook]) -> list[str]:
    """For each role which encoder looked, and at what."""
    return [
        f"{role} is scored by {encoders[role].name}, pictures {encoders[role].preprocessing}"
        for role in ROLES
        if role in encoders
    ]


def report_text(scores: PictureScores) -> str:
    """Who looked and how, a line for each picture, and the means with their intervals."""
    lines = encoder_lines(scores.encoders)
    lines += [
        f"A copy of the {OTHER[role]} reference would have {role} {value:.3f}"
        for role, value in scores.likeness.items()
    ]
    lines += scores.notes
    measures = list(scores.columns)
    rows = [["picture", *measures]]
    for place, name in enumerate(scores.names):
        rows.append([_in_a_line(name), *(f"{scores.columns[one][place]:.3f}" for one in measures)])
    lines += ["", *_aligned(rows), ""]
    table = [["mean of", "n", *measures]]
    for name, found in scores.means.items():
        table.append([_in_a_line(name), str(found[0].n), *map(mean_text, found)])
    lines += _aligned(table)
    if any(score.low is not None for found in scores.means.values() for score in found):
        lines.append(f"In brackets: {INTERVAL}")
    return "\n".join(lines)


def _in_a_line(name: str) -> str:
    return ", ".join(name.split("\n"))


def mean_text(score: Score) -> str:
    """ "0.512 [0.490, 0.534]", or the mean alone where there is no interval."""
    between = "" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.mean:.3f}{between}"


def means_text(scores: Sequence[Score]) -> str:
    """A line "measure mean" for every measure, and below it the interval, where there is one."""
    lines = (f"{one.measure} {mean_text(one)}" for one in scores)
    return "\n".join(line.replace(" [", "\n[") for line in lines)


def lines_by_group(scores: PictureScores, groups: Sequence[Hashable]) -> dict[Hashable, str]:
    """For each group of pictures a line "measure mean" for every measure. groups: one a picture."""
    return {
        group: "\n".join(
            f"{measure} {sum(column[place] for place in places) / len(places):.3f}"
            for measure, column in scores.columns.items()
        )
        for group, places in _places(groups).items()
    }


def means_by_group(scores: PictureScores, groups: Sequence[str]) -> dict[str, list[Score]]:
    """For each group of pictures the mean of every measure. groups: one a picture."""
    return _group_means(groups, scores.columns, scores.encoders)


def best_first(means: Mapping[str, list[Score]], measure: str) -> dict[str, list[Score]]:
    """The same, by falling mean of one measure; CraftError where it was not scored."""
    found = {
        name: score.mean
        for name, scores in means.items()
        for score in scores
        if score.measure == measure
    }
    if len(found) < len(means):
        raise CraftError(
            f"sort_by is {measure}, and that is not scored",
            "Content and style are each scored with a reference, the harmonic mean with both",
            "Connect the reference, or sort by another score",
        )
    return {name: means[name] for name in sorted(found, key=lambda name: -found[name])}


def pair_points(means: Mapping[str, Sequence[Score]]) -> list[Point]:
    """A point for each name whose pictures were scored for content and style."""
    by_measure = {name: {one.measure: one for one in found} for name, found in means.items()}
    return [
        Point(name, found["content"], found["style"])
        for name, found in by_measure.items()
        if found.keys() >= set(ROLES)
    ]


def scores_json(scores: PictureScores) -> str:
    """All of it: encoders and likeness by role, a list of pictures and a list of means."""
    pictures = [
        {"name": name, **{one: column[place] for one, column in scores.columns.items()}}
        for place, name in enumerate(scores.names)
    ]
    encoders = {
        role: {"name": one.name, "preprocessing": one.preprocessing}
        for role, one in scores.encoders.items()
    }
    means = [{"name": name, **asdict(one)} for name, found in scores.means.items() for one in found]
    whole = {
        "encoders": encoders, "likeness_of_references": scores.likeness, "pictures": pictures,
        "means": means,
    }  # fmt: skip
    return json.dumps(whole, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class _Look:
    """What one encoder sees. pictures: (B, width). references: (n, width) by role."""

    pictures: Tensor
    references: dict[Role, Tensor]


def features_of(encoder: PictureEncoder, batches: Sequence[Tensor], name: str) -> Tensor:
    """(B, width) of all batches in their order; CraftError where one is not finite."""
    found = torch.cat([encoder.features(batch) for batch in batches if len(batch)])
    broken = (~found.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise CraftError(
            f"Picture {broken[0] + 1} of {name} has no finite features",
            "Pictures hold numbers from 0 to 1, and an encoder makes numbers of them",
            "Look at the picture: a VAE in half precision can give such ones",
        )
    return found


def _means(
    names: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    encoders: Mapping[Any, PictureEncoder | PromptLook],
) -> dict[str, list[Score]]:
    """For each name that pictures share, or for all, the mean of every measure."""
    alone = len(set(names)) == len(names)
    return _group_means([ALL] * len(names) if alone else names, columns, encoders)


def _group_means(
    groups: Sequence[str],
    columns: Mapping[str, Sequence[float]],
    encoders: Mapping[Any, PictureEncoder | PromptLook],
) -> dict[str, list[Score]]:
    return {
        group: [
            mean_score(
                measure,
                [column[place] for place in places],
                {"pictures": places},
                *_made_by(measure, encoders),
            )
            for measure, column in columns.items()
        ]
        for group, places in _places(groups).items()
    }


def _places(groups: Sequence[Any]) -> dict[Any, list[int]]:
    """The pictures of each group, in order of appearance."""
    found: dict[Any, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group, []).append(place)
    return found


def _made_by(measure: str, encoders: Mapping[Any, PictureEncoder | PromptLook]) -> tuple[str, str]:
    """Name and preprocessing of the encoders that a measure comes from; the mean comes from both
    roles'."""
    own = [one for role, one in encoders.items() if measure.startswith(role)]
    made = list(dict.fromkeys(own or [encoders[role] for role in ROLES if role in encoders]))
    return "; ".join(one.name for one in made), "; ".join(one.preprocessing for one in made)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
