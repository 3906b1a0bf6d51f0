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
MOST_TEXT = 1 << 18  # characters of all dynamic texts of a prompt
_DYNAMIC = re.compile(r"[{\\]|/[/*]")
_COMMENT = re.compile(r"/\*|//[^\n\r\u2028\u2029]*")
_SIGN = re.compile(r"\\(?s:.)?|[{|}]")
_ESCAPED = re.compile(r"\\([{}|])")


def with_draws(prompt: Json, texts: Iterable[tuple[str, str]], key: str) -> Json:
    """The prompt with a draw in each of these texts, named by node and input.

    The draws follow from the key and the names alone: the same key gives the same prompt. What is
    no text there, or is not there, is passed over. CraftError for more text than is drawn from.
    """
    result, length = dict(prompt), 0
    for node, name in texts:
        text = prompt[node]["inputs"].get(name)
        if isinstance(text, str) and _DYNAMIC.search(text):
            length += len(text)
            if length > MOST_TEXT:
                raise CraftError(
                    f"The dynamic prompts have more than {MOST_TEXT} characters",
                    "Texts with braces, backslashes or comments are drawn from",
                    "Shorten them, or give the file of the page's File > Export (API), which has "
                    "been drawn",
                )
            one = draw_text(text, random.Random(f"{key} {node} {name}"))
            if one != text:
                inputs = {**result[node]["inputs"], name: one}
                result[node] = {**result[node], "inputs": inputs}
    return result


def draw_text(text: str, chance: random.Random) -> str:
    """One of the texts that a dynamic prompt stands for."""
    text = _without_comments(text)
    return _drawn(text, 0, len(text), _options(text), chance)


def _without_comments(text: str) -> str:
    """A block comment that is never closed is none."""
    last = text.rfind("*/")
    kept, at = [], 0
    while found := _COMMENT.search(text, at):
        kept.append(text[at : found.start()])
        at = found.end()
        if found[0] == "/*":
            if at <= last:
                at = text.index("*/", at) + 2
            else:
                kept.append("/*")
    return "".join([*kept, text[at:]])


def _options(text: str) -> dict[int, list[int]]:
    """Where braces open -> where each of their options ends."""
    ends: dict[int, list[int]] = {}
    around: list[list[int]] = []  # the braces that are open
    for sign in _SIGN.finditer(text):
        if sign[0] == "{":
            if len(around) == MOST_NESTED:
                raise CraftError(
                    f"A dynamic prompt has more than {MOST_NESTED} braces inside one another",
                    r"{a|b} draws one of the two; \{ is the sign itself",
                    "Close the braces, or put a backslash before each",
                )
            around.append(ends.setdefault(sign.start(), []))
        elif around and sign[0] == "|":
            around[-1].append(sign.start())
        elif around and sign[0] == "}":
            around.pop().append(sign.start())
    for one in around:  # never closed: up to the end
        one.append(len(text))
    return ends


def _drawn(
    text: str, start: int, end: int, options: dict[int, list[int]], chance: random.Random
) -> str:
    result, at = [], start  # up to `at` the text is in the result
    brace = text.find("{", start, end)
    while brace >= 0:
        after = brace + 1
        if brace in options:  # else it is escaped
            marks = [brace, *options[brace]]
            one = int(chance.random() * (len(marks) - 1))
            result += text[at:brace], _drawn(text, marks[one] + 1, marks[one + 1], options, chance)
            at = after = marks[-1] + 1
        brace = text.find("{", after, end)
    return _ESCAPED.sub(r"\1", "".join([*result, text[at:end]]))
