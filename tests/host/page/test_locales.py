"""The page's texts in each language: nothing missing, nothing stale, nothing lost."""

import json
import re
from typing import Any

import pytest
from craft_lora_pack.nodes import NODES

from launcher.errors import LaunchError
from launcher.publish.locales import (
    COMMANDS,
    DEFINITIONS,
    LOCALES,
    MAIN,
    MODULE,
    PAGE,
    PHRASES,
    SERVER,
    Translations,
    definitions,
    main_texts,
    message,
    read_phrases,
    write_locales,
)

LANGUAGES = ("en", "zh")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_IN_CHINESE = {"lora", "clip", "vae", "vgg", "cfg", "gamma", "alpha", "beta", "beta_star"}
VERBATIM = re.compile(
    r"</?[cs]>|\{\w+\}|(?<![\w*])'[^']* [^']*'|arXiv:[\d.]+\d"
    r"|(?:models|output)/\w+|\b\w+_\w+(?:\.\w+)+|(?<![A-Za-z\d.])\d+(?:\.\d+)?(?:e-\d+)?|\|\|.*\|\|\^2"
)
LINE_OF_A_MENU = re.compile(r"^[\w-]+(?: mix)?: ")
# Menus of files, or of the host's own names, in which the page's filter is needed more than words.
LISTS = {
    "sampler_name", "scheduler", "resize_method", "basis", "encoder", "vgg", "unet_name",
    "ckpt_name", "csd", "text_encoder", "lora", "content_lora", "style_lora", "second_lora",
    "second_content_lora", "second_style_lora",
}  # fmt: skip
# Menus of registries, with the names that papers gave; those of them that are words have Chinese.
PAPERS = {"method", "layer_sets", "guidance"}
# Types of numbers, algorithms, and signs of formulas.
STAY = {
    "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2", "fp16", "bf16", "fp32", "s", "s*", "top-k",
    "ties", "dct", "fft", "adamw", "sgd",
}  # fmt: skip
HOST_NODES = {
    "加载CLIP视觉",
    "Torch编译模型",
    "UNet加载器",
    "VAE解码",
    "预览图像",
    "保存图像",
    "保存图像文本数据集",
    "加载图像",
    "加载 LoRA 模型",
    "绘制损失图",
    "自定义采样器（高级）",
}
GLOSSARY = {
    "backbone": "主干",
    "basis": "基底",
    "branch(es)?": "分支",
    "captions?": "描述",
    "conditional rows": "条件行",
    "contents?": "内容",
    "expert encoder": "专家编码器",
    "fusion": "融合",
    "guidance": "引导",
    "latents?": "Latent",
    "layer sets?": "层集",
    "layers?": "层",
    "lora": "LoRA",
    "losses": "损失",
    "markers?": "标记",
    "merges?": "合并",
    "noise": "噪波",
    "prompts?": "提示词",
    "(?<!not )ranks?": "秩",
    "schedule": "调度",
    "seeds?": "种子",
    "steps(?! back)": "步",
    "strengths?": "强度",
    "styles?": "风格",
    "subspaces?": "子空间",
}


@pytest.fixture(scope="module")
def nodes() -> dict[str, dict[str, Any]]:
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}


def file_of(language: str, name: str = DEFINITIONS) -> dict[str, Any]:
    return json.loads((LOCALES / language / name).read_text("utf-8"))


def phrases_of_the_texts() -> dict[str, str]:
    """The explanations of nodes and the texts of scripts, templates and the server, which are
    sentences; not the names."""
    tables = file_of("zh", PHRASES)
    return tables["texts"] | tables["said"] | tables["templates"] | tables["server"]


# What is written in code: quotes, values, options, presets, settings, comparisons and patterns.
EXAMPLES = re.compile(
    r"`[^`]*`|(?<!\w)'[^']*'|\{\w+\}|\S*[_/]\S*"
    r"|--[\w-]+|\bb-lora\b|\b\w+(?= <?= )|\b(?:content|style): (?=\w+_\w+\.)"
)


def without_examples(english: str) -> str:
    return EXAMPLES.sub("", english)


def inputs_of_schema(inputs: list, menu: str = "") -> list[tuple[str, Any]]:
    """Every input of a schema, those of menus' entries included, under its name in the page."""
    found = []
    for item in inputs:
        found.append((menu + item.id, item))
        for option in getattr(item, "options", None) or ():
            if hasattr(option, "inputs"):
                found += inputs_of_schema(option.inputs, f"{menu}{item.id}.")
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_files_are_what_the_nodes_and_phrases_give(nodes, language):
    """After a change of a node: python run.py locales."""
    phrases = read_phrases(LOCALES / language)
    assert file_of(language) == definitions(nodes, phrases)
    assert file_of(language, MAIN) == main_texts(LOCALES / language, phrases)
    if language == "zh":
        assert phrases.lacking() == []
        assert phrases.unused() == []


def test_english_says_what_the_schemas_say():
    english = file_of("en")
    assert list(english) == [node.GET_SCHEMA().node_id for node in NODES]
    for schema in (node.GET_SCHEMA() for node in NODES):
        entry = english[schema.node_id]
        assert (entry["display_name"], entry["description"]) == (
            schema.display_name,
            schema.description,
        )
        inputs = inputs_of_schema(schema.inputs)
        assert {name.replace(".", "_") for name, _ in inputs} == set(entry["inputs"])
        for name, item in inputs:
            texts = entry["inputs"][name.replace(".", "_")]
            assert texts["name"] == (item.display_name or item.id)
            assert item.tooltip in texts["tooltip"]
        assert [text["tooltip"] for text in entry["outputs"].values()] == [
            output.tooltip for output in schema.outputs
        ]


def test_every_language_has_the_same_entries():
    def paths(value: Any, at: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [at]
        return [path for key, inner in value.items() for path in paths(inner, f"{at}.{key}")]

    for name in (DEFINITIONS, MAIN, COMMANDS):
        english = paths(file_of("en", name))
        assert [path for path in paths(file_of("zh", name)) if ".options." not in path] == english
        assert not [path for path in english if ".options." in path]  # values are English


def test_the_keys_have_no_dots_as_the_page_looks_them_up():
    for node, entry in file_of("en").items():
        assert not [key for key in (node, *entry["inputs"]) if "." in key]


def values_of(inputs: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """(input, value) of every menu, those that another menu's entries bring included."""
    found = set()
    for name, (_, settings) in (inputs.get("required", {}) | inputs.get("optional", {})).items():
        for option in settings.get("options") or ():
            found.add((name, option["key"] if isinstance(option, dict) else option))
            if isinstance(option, dict):
                found |= values_of(option["inputs"])
    return {(name, value) for name, value in found if name not in LISTS}


def test_every_value_of_our_menus_is_named_in_chinese_or_stays_on_purpose(nodes):
    named = {tuple(key.split(": ", 1)) for key in file_of("zh", PHRASES)["options"]}
    values = set().union(*(values_of(info["input"]) for info in nodes.values()))
    assert named <= values
    left = {(name, value) for name, value in values - named if name not in PAPERS}
    assert {value for _, value in left} == STAY


def test_the_word_for_a_value_has_the_value_in_it():
    """Reports, help and papers name the value, and so does the command line."""
    for key, word in file_of("zh", PHRASES)["options"].items():
        value = key.split(": ", 1)[1]
        assert word.endswith(f"（{value}）") and CHINESE.search(word), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_name_or_description_is_syntax_to_the_page(language):
    for entry in file_of(language).values():
        slots = [*entry["inputs"].values(), *entry["outputs"].values()]
        names = [slot["name"] for slot in slots if "name" in slot]
        for text in (entry["display_name"], entry["description"], *names):
            assert not re.search(r"[@{}|%]", re.sub(r"\{'.'\}", "", text))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_brace_in_a_tooltip_holds_a_name(language):
    """ComfyUI 0.20.1's page compiles tooltips too where it draws nodes as elements, and shows no
    node that has another brace."""
    for node, entry in file_of(language).items():
        for name, slot in [*entry["inputs"].items(), *entry["outputs"].items()]:
            others = re.sub(r"\{\w+\}", "", slot.get("tooltip") or "")
            assert not re.search("[{}]", others), (node, name)


def test_signs_of_the_message_syntax_are_quoted():
    assert message("plain <c>, 'text'") == "plain <c>, 'text'"
    assert message("a@b {c} d|e 5%") == "a{'@'}b {'{'}c{'}'} d{'|'}e 5{'%'}"


def test_an_input_that_entries_of_a_menu_share_says_what_it_is_in_each():
    seed, same = ["INT", {"tooltip": "Of the draw."}], ["INT", {"tooltip": "Same file."}]
    options = [
        {"key": "one", "inputs": {"required": {"seed": seed}}},
        {"key": "two", "inputs": {"required": {"seed": same}}},
        {"key": "three", "inputs": {"optional": {"seed": seed}}},
    ]
    menu = ["COMFY_DYNAMICCOMBO_V3", {"tooltip": "How.", "options": options}]
    node = {
        "display_name": "Node",
        "description": "Does.",
        "input": {"required": {"way": menu}},
        "output": ["LATENT", "STRING"],
        "output_name": ["LATENT", "report"],
        "output_tooltips": ["The latent.", "The report."],
    }
    phrases = Translations(
        {"seed": "种子", "old": "旧"},
        {"Of the draw.": "抽取用。"},
        options={"way: two": "二（two）", "seed: two": "二"},
    )
    made = definitions({"N": node}, phrases)["N"]
    assert made["inputs"] == {
        "way": {"name": "way", "tooltip": "How.", "options": {"two": "二（two）"}},
        "way_seed": {"name": "种子", "tooltip": "one, three: 抽取用。\ntwo: Same file."},
    }
    assert made["outputs"] == {
        "0": {"tooltip": "The latent."},
        "1": {"name": "report", "tooltip": "The report."},
    }
    assert phrases.unused() == ["old", "seed: two"]
    assert {"way", "report", "Node", "How."} <= set(phrases.lacking())


def test_a_phrase_too_few_or_too_many_is_named(nodes, tmp_path, monkeypatch):
    tables = file_of("zh", PHRASES)
    del tables["texts"]["Denoising steps."]
    tables["names"]["gone"] = "无"
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / PHRASES).write_text(json.dumps(tables), "utf-8")
    monkeypatch.setattr("launcher.publish.locales.LOCALES", tmp_path)
    shown = {name: {**info, "python_module": MODULE} for name, info in nodes.items()}
    with pytest.raises(LaunchError, match="lacks 'Denoising steps.'\nno longer needs 'gone'"):
        write_locales(shown)
    assert not (tmp_path / "zh" / DEFINITIONS).exists()


def test_every_phrase_is_in_chinese():
    tables = file_of("zh", PHRASES)
    assert {e for e, z in tables["names"].items() if not CHINESE.search(z)} == SAME_IN_CHINESE
    assert [e for e, z in phrases_of_the_texts().items() if not CHINESE.search(z)] == []


def test_markers_numbers_examples_and_paths_are_kept_verbatim():
    for english, chinese in phrases_of_the_texts().items():
        assert sorted(VERBATIM.findall(chinese)) == sorted(VERBATIM.findall(english)), english


def test_a_line_of_a_menu_begins_with_the_same_entry():
    """'k_lora: ...' explains an entry that stays English in the menu."""
    menus = [
        line
        for entry in file_of("en").values()
        for item in entry["inputs"].values()
        for line in item["tooltip"].split("\n")[1:]
    ]
    phrases = phrases_of_the_texts()
    tried = 0
    for line in menus:
        start = LINE_OF_A_MENU.match(line)
        if start and line in phrases and line[0].islower():
            assert phrases[line].startswith(start[0])
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("word", GLOSSARY)
def test_a_word_has_one_translation(word):
    used = 0
    for english, chinese in phrases_of_the_texts().items():
        if re.search(rf"\b{word}\b", without_examples(english), re.IGNORECASE):
            assert GLOSSARY[word] in chinese, f"{english} -> {chinese}"
            used += 1
    assert used > 0


def test_what_is_quoted_is_called_so_in_the_page():
    tables = file_of("zh", PHRASES)
    titles = {entry["display_name"] for entry in file_of("zh").values()}
    quotes = {"该内容、该风格", "python run.py small-world add", "{words}"}
    known = titles | set(tables["names"].values()) | HOST_NODES | quotes
    for chinese in phrases_of_the_texts().values():
        assert set(re.findall("“(.*?)”", chinese)) <= known, chinese


def test_the_host_serves_them(live_server):
    served = json.loads(live_server.server.client.get("/i18n"))
    for language in LANGUAGES:
        assert served[language]["nodeDefs"].items() >= file_of(language).items()
        category = served[language]["templateWorkflows"]["category"]
        assert category["craft-lora"]
        for part in (PAGE, SERVER):
            assert served[language][part] == file_of(language, MAIN)[part]
        assert served[language]["commands"].items() >= file_of(language, COMMANDS).items()
