r"""Dynamic prompts: of `a {red|blue} ball` one is drawn, and comments are left out.

By the page's own rules: braces may be nested, an option may be empty, `\{`, `\|` and `\}` stand for
the signs themselves, and `// ...` up to the end of its line and `/* ... */` are comments. Only the
widgets of inputs that declare `dynamicPrompts` are treated so, and not those that an instance of a
subgraph shows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from ...craft_core.errors import CraftError
from ..widgets import Json

MOST_NESTED = 100  # braces inside one another
_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
_ESCAPED = re.compile(r"\\([{}|])")


def with_draws(prompt: Json, texts: Iterable[tuple[str, str]], key: str) -> Json:
    """The prompt with a draw in each of these texts, named by node and input.

    The draws follow from the key and the names alone: the same key gives the same prompt. What is
    no text there, or is not there, is passed over.
    """
    result = dict(prompt)
    for node, name in texts:
        text = prompt[node]["inputs"].get(name)
        if isinstance(text, str):
            one = draw_text(text, random.Random(f"{key} {node} {name}"))
            if one != text:
                inputs = {**result[node]["inputs"], name: one}
                result[node] = {**result[node], "inputs": inputs}
    return result


def draw_text(text: str, chance: random.Random) -> str:
    """One of the texts that a dynamic prompt stands for."""
    return _drawn(text, chance, 0)


def _drawn(text: str, chance: random.Random, depth: int) -> str:
    text = _COMMENT.sub("", text)
    result, at = [], 0
    while at < len(text):
        if text[at] == "{":
            options, at = _options(text, at + 1, depth)
            chosen = options[int(chance.random() * len(options))]
            result.append(_drawn(chosen, chance, depth + 1))
            continue
        length = 2 if text[at] == "\\" else 1
        result.append(text[at : at + length])
        at += length
    return _ESCAPED.sub(r"\1", "".join(result))


def _options(text: str, start: int, depth: int) -> tuple[list[str], int]:
    """The options of the braces that open before `start`, and where the text goes on."""
    options, begin, at = [], start, start
    open_inside = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif letter == "{":
            open_inside += 1
            if depth + open_inside >= MOST_NESTED:
                raise CraftError(
                    f"A dynamic prompt has more than {MOST_NESTED} braces inside one another",
                    r"{a|b} draws one of the two; \{ is the sign itself",
                    "Close the braces, or put a backslash before each",
                )
        elif letter == "}" and open_inside:
            open_inside -= 1
        elif letter == "}":
            return [*options, text[begin:at]], at + 1
        elif letter == "|" and not open_inside:
            options.append(text[begin:at])
            begin = at + 1
        at += 1
    return [*options, text[begin:]], len(text)
