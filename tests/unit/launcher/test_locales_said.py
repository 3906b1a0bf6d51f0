"""What web/js writes in the page is said through the locale files, and Chinese has all of it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.publish.core_script import SCRIPT, core_script
from launcher.publish.locales import (
    COMMANDS,
    LOCALES,
    MAIN,
    PAGE,
    SCRIPTS,
    TEMPLATES,
    WORKFLOWS,
    command_labels,
    command_texts,
    main_texts,
    read_phrases,
    said_texts,
    template_lines,
)
from launcher.publish.server_texts import VALUE, texts_of

LANGUAGES = ("en", "zh")
TOKEN = re.compile(
    r"/\*.*?\*/|//[^\n]*|(?P<call>\bsay\(\s*)?(?P<text>\"(?:[^\"\\\n]|\\.)*\"|`(?:[^`\\]|\\.)*`)"
    r"(?P<more>(?:\s*\+\s*\"(?:[^\"\\\n]|\\.)*\")*)",
    re.DOTALL,
)
WORDS = re.compile(r"[A-Za-z]{2,}[,:;]? [A-Za-z]{2,}|[A-Z][a-z]+: ")
ICON = re.compile('"pi pi-')
REGISTERED = re.compile(r"\{\s*id: [^}]*\blabel\b")  # a command
ROOMS = ("craft_core", "comfy_adapter", "nodes", "client", "cli")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LETTER = re.compile(r"[A-Za-z]")
START = re.compile(r"(#+ |- |\d\. |\|)?")  # a heading, an item of a list, a row of a table
FEW = 2  # words, that may be the same by chance
NO_TEXTS = {"style.js": "const CSS"}  # the style sheet


def unsaid(code: str) -> list[str]:
    """Literals that read as texts for the user and are not said."""
    return [
        found["text"]
        for found in TOKEN.finditer(code)
        if found["text"]
        and not found["call"]
        and WORDS.search(found["text"])
        and not ICON.match(found["text"])
    ]


def test_the_main_files_are_what_scripts_and_phrases_give():
    """After a change of a text: python run.py locales."""
    for language in LANGUAGES:
        phrases = read_phrases(LOCALES / language)
        written = json.loads((LOCALES / language / MAIN).read_text("utf-8"))
        assert written == main_texts(LOCALES / language, phrases)
        assert list(written[PAGE]) == said_texts(SCRIPTS)
        written = json.loads((LOCALES / language / COMMANDS).read_text("utf-8"))
        assert written == command_texts(phrases)


def test_the_script_of_the_cores_texts_is_what_the_core_gives():
    """After a change of craft_core/messages.py or starting.py: python run.py locales."""
    assert SCRIPT.read_text("utf-8") == core_script()


def test_a_text_that_python_says_too_comes_to_the_page_from_there(tmp_path: Path):
    python = {text for room in ROOMS for text in texts_of(room)}
    own = shutil.copytree(SCRIPTS, tmp_path / "js", ignore=shutil.ignore_patterns(SCRIPT.name))
    scripts, besides = (
        {VALUE.sub("{}", text) for text in said_texts(folder)} for folder in (SCRIPTS, own)
    )
    twice = {text for text in scripts & python if len(text.split()) > FEW}
    assert twice and twice & besides == set()


def test_chinese_has_a_phrase_for_every_text_and_none_besides():
    phrases = json.loads((LOCALES / "zh" / "phrases.json").read_text("utf-8"))["said"]
    assert sorted(phrases) == sorted(said_texts(SCRIPTS))


def test_every_command_has_its_label_where_the_page_looks_for_it():
    labels = command_labels(SCRIPTS)
    scripts = [script.read_text("utf-8") for script in SCRIPTS.rglob("*.js")]
    assert len(labels) == sum(len(REGISTERED.findall(code)) for code in scripts)
    for language in LANGUAGES:
        own = json.loads((LOCALES / language / COMMANDS).read_text("utf-8"))
        main = json.loads((LOCALES / language / MAIN).read_text("utf-8"))
        assert list(own) == [name.replace(".", "_") for name in labels]
        assert list(main["menuLabels"]) == [text.replace(".", "_") for text in labels.values()]
        said = [main[PAGE][text] for text in labels.values()]
        assert [entry["label"] for entry in own.values()] == said
        assert list(main["menuLabels"].values()) == said
    assert labels and all(name.startswith("craft_lora.") for name in labels)


def test_english_is_said_as_it_is_written():
    english = json.loads((LOCALES / "en" / MAIN).read_text("utf-8"))[PAGE]
    assert english and all(text == key for key, text in english.items())


def test_every_text_of_the_scripts_is_said():
    for script in SCRIPTS.rglob("*.js"):
        code = script.read_text("utf-8")
        if script.name in NO_TEXTS:
            code = re.sub(NO_TEXTS[script.name] + r" = `[^`]*`", "", code)
        assert unsaid(code) == [], script.name


def test_a_text_that_is_not_said_is_noticed():
    code = """
        // a comment "with words in it"
        const name = "craft-words", rule = `a.b > c`;
        show(say("The model " + "is missing."), say(\n  "More of it"));
        show("The model is missing.");
        show(`Layers: ${why}`, `There are ${count} layers`);
    """
    assert unsaid(code) == [
        '"The model is missing."',
        "`Layers: ${why}`",
        "`There are ${count} layers`",
    ]


def test_texts_are_found_wherever_they_are_said(tmp_path: Path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "a.js").write_text(
        'say("One {x}", { x });\nexport function say(english) {}\nessay(1); say(\n'
        '  "Two, " +\n    "\\"too\\"",\n); say("One {x}")',
        "utf-8",
    )
    (tmp_path / "lib" / "b.js").write_text('[say("Three")]', "utf-8")
    assert said_texts(tmp_path) == ["One {x}", 'Two, "too"', "Three"]


@pytest.mark.parametrize("call", ["say(text)", "say(`One ${x}`)", "say('One')"])
def test_a_text_that_cannot_be_found_is_an_error(tmp_path: Path, call):
    (tmp_path / "a.js").write_text(call, "utf-8")
    with pytest.raises(LaunchError, match=r"a\.js: say\(\) needs a text in double quotes"):
        said_texts(tmp_path)


def test_what_else_main_has_is_kept(tmp_path: Path):
    (tmp_path / MAIN).write_text(json.dumps({"other": 1, PAGE: {"stale": "x"}}), "utf-8")
    phrases = read_phrases(LOCALES / "zh")
    made = main_texts(tmp_path, phrases)
    assert made["other"] == 1 and "stale" not in made[PAGE]
    assert made[PAGE]["content"] == "内容"
    assert list(made[TEMPLATES]) == sorted(file.stem for file in WORKFLOWS.glob("*.json"))


def graphs(workflow: dict) -> Iterator[dict]:
    yield workflow
    yield from workflow.get("definitions", {}).get("subgraphs", [])


def shown_by(workflow: dict) -> Iterator[str]:
    """Every note and title that a workflow brings, whole."""
    for graph in graphs(workflow):
        yield from (group["title"] for group in graph.get("groups", []))
        for node in graph["nodes"]:
            yield node.get("title", "")
            if "Note" in node["type"]:
                yield from node["widgets_values"]


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.json")), ids=lambda file: file.stem)
def test_every_note_and_title_of_a_template_has_its_chinese(file: Path):
    """A line that was changed in English alone is found: its Chinese is under the old line."""
    lines = json.loads((LOCALES / "zh" / MAIN).read_text("utf-8"))[TEMPLATES][file.stem]
    texts = "\n".join(shown_by(json.loads(file.read_text("utf-8")))).split("\n")
    wanted = {line for line in texts if LETTER.search(line)}
    assert wanted and wanted == set(lines)
    assert [line for line in wanted if not CHINESE.search(lines[line])] == []


def test_chinese_has_no_line_that_no_template_has():
    files = [json.loads(file.read_text("utf-8")) for file in WORKFLOWS.glob("*.json")]
    phrases = json.loads((LOCALES / "zh" / "phrases.json").read_text("utf-8"))["templates"]
    assert set(phrases) == {line for workflow in files for line in template_lines(workflow)}


def test_a_line_keeps_what_markdown_makes_of_it():
    """Its beginning, the cells of a table, and all code; and each sign that opens is closed."""
    phrases = json.loads((LOCALES / "zh" / "phrases.json").read_text("utf-8"))["templates"]
    for english, chinese in phrases.items():
        assert START.match(chinese)[0] == START.match(english)[0], english
        assert [chinese.count(sign) % 2 for sign in "`*"] == [0, 0], chinese
        assert chinese.count("|") == english.count("|"), english
        assert set(re.findall("`[^`]*`", english)) <= set(re.findall("`[^`]*`", chinese)), english


def test_groups_and_subgraphs_of_a_template_count_too():
    inner = {"nodes": [{"type": "Note", "widgets_values": ["Inner\n---\nInner"]}]}
    workflow = {
        "nodes": [{"type": "A", "title": "Node", "widgets_values": ["value"]}, {"type": "B"}],
        "groups": [{"title": "Group"}],
        "definitions": {"subgraphs": [inner]},
    }
    assert template_lines(workflow) == ["Node", "Group", "Inner"]
