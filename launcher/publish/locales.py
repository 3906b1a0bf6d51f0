"""The locale files of the host's page: English from the schemas, others by a table of phrases.

The page finds a node's texts under its id, its inputs by name and its outputs by number; an input
of a menu, such as method.gamma, is method_gamma there. It compiles names and descriptions as
messages, in which some characters are syntax, and shows tooltips as they are.

Texts that the pack's own scripts show are written in them as say("..."), and main.json has the
translation of each under its English. So it has the texts that the pack's templates bring, by
template and English line: the page's script puts them in when it opens one. The page itself looks
up the label of a command: under the command's id, and in menus under the English label.

What the server says is in main.json by templates of its English, which the page's script matches.
A language's table has those that the page does not say itself.

What a value of a menu is called in a language is "options" beside the name of the input; a value
that a language has no word for keeps its own, as all do in English.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import LaunchError
from ..paths import ROOT
from ..terminal import say
from .core_script import SCRIPT, core_script, core_texts
from .server_texts import is_said

LOCALES = ROOT / "locales"
SCRIPTS = ROOT / "web" / "js"
DEFINITIONS = "nodeDefs.json"
MAIN = "main.json"
COMMANDS = "commands.json"
PAGE = "craft_lora"  # the part of main.json that the scripts read
PHRASES = "phrases.json"
MODULE = "custom_nodes.craft-lora"
MENU = "COMFY_DYNAMICCOMBO_V3"
TEMPLATES = "craft_lora_templates"  # the part of main.json with the texts of templates
SERVER = "craft_lora_server"  # the part of main.json with what the server says
WORKFLOWS = ROOT / "workflows"
NOTES = ("Note", "MarkdownNote")
_LITERAL = r'"(?:[^"\\]|\\.)*"'
_SAID = re.compile(rf"(?<!function )\bsay\(\s*({_LITERAL}(?:\s*\+\s*{_LITERAL})*)?")
_COMMAND = re.compile(
    rf"^const COMMAND = ({_LITERAL});$.*^const label = \(\) => say\(({_LITERAL})\);$", re.M | re.S
)


class Translations:
    """A language's phrases: for names, for each line of nodes' texts, for what scripts say, for
    each line of templates' texts, for the values of menus, as "input: value", and for what the
    server says.

    What it lacks is English.
    """

    def __init__(
        self,
        names: dict[str, str],
        texts: dict[str, str],
        said: dict[str, str] | None = None,
        templates: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
        server: dict[str, str] | None = None,
    ):
        self._known = {
            "names": names,
            "texts": texts,
            "said": said or {},
            "templates": templates or {},
            "options": options or {},
            "server": server or {},
        }
        self._asked: dict[str, dict[str, None]] = {table: {} for table in self._known}

    def name(self, english: str) -> str:
        return self._say("names", english)

    def text(self, english: str) -> str:
        return "\n".join(self._say("texts", line) for line in english.split("\n"))

    def said(self, english: str) -> str:
        return self._say("said", english)

    def template(self, english: str) -> str:
        return self._say("templates", english)

    def server(self, english: str) -> str:
        return self._say("server", english)

    def options(self, name: str, values: Iterable[str]) -> dict[str, str]:
        """The words for those values of the input that the language has words for."""
        words = {value: f"{name}: {value}" for value in values}
        known = {value: key for value, key in words.items() if key in self._known["options"]}
        return {value: self._say("options", key) for value, key in known.items()}

    def _say(self, table: str, english: str) -> str:
        self._asked[table][english] = None
        return self._known[table].get(english, english)

    def lacking(self) -> list[str]:
        """What was asked for and is not in the tables."""
        return [p for t, asked in self._asked.items() for p in asked if p not in self._known[t]]

    def unused(self) -> list[str]:
        """What is in the tables and was never asked for."""
        return [p for t, known in self._known.items() for p in known if p not in self._asked[t]]


def read_phrases(language: Path) -> Translations:
    """The table in a language's folder; an empty one where there is none, as for English."""
    file = language / PHRASES
    tables = _read(file) if file.is_file() else {"names": {}, "texts": {}}
    return Translations(**tables)


def definitions(nodes: dict[str, dict[str, Any]], phrases: Translations) -> dict[str, Any]:
    """nodeDefs.json in one language, of nodes as /object_info describes them."""
    return {node: _node(info, phrases) for node, info in nodes.items()}


def main_texts(language: Path, phrases: Translations) -> dict[str, Any]:
    """main.json in one language: what is there, with the scripts' texts written again."""
    file = language / MAIN
    kept = _read(file) if file.is_file() else {}
    labels = command_labels(SCRIPTS).values()
    return {
        **kept,
        "menuLabels": {_key(label): message(phrases.said(label)) for label in labels},
        PAGE: {english: phrases.said(english) for english in said_texts(SCRIPTS)},
        TEMPLATES: {
            file.stem: {line: phrases.template(line) for line in template_lines(_read(file))}
            for file in sorted(WORKFLOWS.glob("*.json"))
        },
        SERVER: {
            **{english: phrases.said(english) for english in core_texts()},
            **{english: phrases.server(english) for english in server_texts()},
        },
    }


def server_texts() -> list[str]:
    """The templates that some language has, of what the server still says."""
    tables = [_read(file).get("server", {}) for file in sorted(LOCALES.glob(f"*/{PHRASES}"))]
    return [text for text in dict.fromkeys(one for each in tables for one in each) if is_said(text)]


def template_lines(workflow: dict[str, Any]) -> list[str]:
    """The lines of a workflow's notes and the titles that it gives nodes and groups, each once;
    without those that have no letter, such as the rule of a table."""
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    lines = [
        line
        for graph in (workflow, *subgraphs)
        for text in _texts_of_graph(graph)
        for line in text.split("\n")
    ]
    return [line for line in dict.fromkeys(lines) if re.search(r"[^\W\d_]", line)]


def _texts_of_graph(graph: dict[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        yield node.get("title") or ""
        if node["type"] in NOTES:
            yield from node["widgets_values"]
    for group in graph.get("groups", []):
        yield group["title"]


def command_texts(phrases: Translations) -> dict[str, Any]:
    """commands.json in one language."""
    labels = command_labels(SCRIPTS)
    return {_key(name): {"label": message(phrases.said(text))} for name, text in labels.items()}


def command_labels(folder: Path) -> dict[str, str]:
    """The English label of every command of the scripts of a folder, by the command's id."""
    found = [_COMMAND.search(script.read_text("utf-8")) for script in sorted(folder.rglob("*.js"))]
    return {json.loads(one[1]): json.loads(one[2]) for one in found if one}


def _key(text: str) -> str:
    return text.replace(".", "_")


def said_texts(folder: Path) -> list[str]:
    """The English texts that the scripts of a folder say, each once."""
    found: dict[str, None] = {}
    for script in sorted(folder.rglob("*.js")):
        for call in _SAID.finditer(script.read_text("utf-8")):
            if call[1] is None:
                raise LaunchError(f"{script}: say() needs a text in double quotes, at once")
            found["".join(map(json.loads, re.findall(_LITERAL, call[1])))] = None
    return list(found)


def message(text: str) -> str:
    """A text as the page's message compiler wants it, so that it comes out unchanged."""
    return re.sub(r"[@{}|%]", lambda sign: "{'" + sign[0] + "'}", text)


def _node(info: dict[str, Any], phrases: Translations) -> dict[str, Any]:
    return {
        "display_name": message(phrases.text(info["display_name"])),
        "description": message(phrases.text(info["description"])),
        "inputs": dict(_inputs(info, phrases)),
        "outputs": dict(_outputs(info, phrases)),
    }


def _inputs(info: dict[str, Any], phrases: Translations) -> Iterator[tuple[str, dict[str, Any]]]:
    found: dict[str, dict[str, list[str]]] = {}  # name, tooltip, the entries of a menu it is for
    values: dict[str, list[str]] = {}
    for name, entry, settings in _slots(info["input"]):
        found.setdefault(name, {}).setdefault(settings["tooltip"], []).append(entry)
        values.setdefault(name, []).extend(map(_value, settings.get("options", ())))
    for name, tooltips in found.items():
        lines = [phrases.text(tooltip) for tooltip in tooltips]
        if len(lines) > 1:
            owners = [", ".join(entries) for entries in tooltips.values()]
            lines = [f"{owner}: {line}" for owner, line in zip(owners, lines, strict=True)]
        own = name.rpartition(".")[2]
        texts: dict[str, Any] = {
            "name": message(phrases.name(own)),
            "tooltip": "\n".join(lines),
        }
        if options := phrases.options(own, values[name]):
            texts["options"] = options
        yield name.replace(".", "_"), texts


def _value(option: str | dict[str, Any]) -> str:
    """The value that an option of a menu gives; one that brings inputs is a table."""
    return option["key"] if isinstance(option, dict) else option


def _slots(
    inputs: dict[str, dict[str, Any]], menu: str = "", entry: str = ""
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name as in the page, entry of the menu that brings it, settings) of every input."""
    for group in ("required", "optional"):
        for name, (kind, settings) in inputs.get(group, {}).items():
            yield menu + name, entry, settings
            for option in settings["options"] if kind == MENU else []:
                yield from _slots(option["inputs"], f"{menu}{name}.", option["key"])


def _outputs(info: dict[str, Any], phrases: Translations) -> Iterator[tuple[str, dict[str, str]]]:
    columns = (info["output"], info["output_name"], info["output_tooltips"])
    for number, (kind, name, tooltip) in enumerate(zip(*columns, strict=True)):
        # An output named like its type gets the page's own word for the type.
        named = {} if name == kind else {"name": message(phrases.name(name))}
        yield str(number), {**named, "tooltip": phrases.text(tooltip)}


def write_locales(shown: dict[str, dict[str, Any]]) -> None:
    """Write every language's files from all nodes that a real server shows, and the scripts; first
    the script that says what the core says."""
    SCRIPT.write_text(core_script(), "utf-8")
    say(f"wrote {SCRIPT}")
    nodes = {name: info for name, info in shown.items() if info["python_module"] == MODULE}
    for language in sorted(folder for folder in LOCALES.iterdir() if folder.is_dir()):
        phrases = read_phrases(language)
        files = {
            DEFINITIONS: definitions(nodes, phrases),
            MAIN: main_texts(language, phrases),
            COMMANDS: command_texts(phrases),
        }
        if (language / PHRASES).is_file():
            _require_fitting(phrases, language)
        for name, content in files.items():
            text = json.dumps(content, ensure_ascii=False, indent=2)
            (language / name).write_text(text + "\n", "utf-8")
            say(f"wrote {language / name}")


def _require_fitting(phrases: Translations, language: Path) -> None:
    wrong = [f"lacks {phrase!r}" for phrase in phrases.lacking()]
    wrong += [f"no longer needs {phrase!r}" for phrase in phrases.unused()]
    if wrong:
        raise LaunchError("\n".join([f"{language / PHRASES} needs a change; it", *wrong]))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))
