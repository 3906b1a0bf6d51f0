"""An input is named as the page names it, and its value is read as its schema says."""

import copy
import json
import time
import tracemalloc
from contextlib import contextmanager

import pytest
from craft_lora_pack.client.address import Inputs, NodeInput, typed
from craft_lora_pack.client.answers import MOST_LETTERS, known_nodes
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.facts import _listed, _name_in
from craft_lora_pack.client.from_page import graph
from craft_lora_pack.client.widgets import FileNames, same_files
from craft_lora_pack.client.workflow import read_both
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import LORAS, OBJECT_INFO, PROMPT


def inputs(*more):
    nodes = {**copy.deepcopy(PROMPT), **{str(10 + i): node for i, node in enumerate(more)}}
    return Inputs(nodes, OBJECT_INFO)


SECOND = {"class_type": "Sampler", "inputs": {"seed": 3}, "_meta": {"title": "Refiner"}}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("2.seed", NodeInput("2", "seed")),  # by id
        ("Main v1.5.seed", NodeInput("2", "seed")),  # by a title with a dot in it
        ("Content/Style Router.prompt", NodeInput("1", "prompt")),  # by the name the page shows
        ("Router.prompt", NodeInput("1", "prompt")),  # by type
        ("Router.method.alpha", NodeInput("1", "method.alpha")),  # before its entry is chosen
        ("seed", NodeInput("2", "seed")),
        ("content", NodeInput("1", "content_lora")),
        ("style", NodeInput("1", "style_lora")),
        ("alpha", NodeInput("1", "method.alpha")),
        ("method.alpha", NodeInput("1", "method.alpha")),
    ],
)
def test_an_input_is_named_by_id_title_type_or_alone(name, target):
    assert inputs().find(name) == target


def test_a_title_comes_before_a_type():
    both = inputs({**SECOND, "_meta": {"title": "Sampler"}})
    assert both.find("Sampler.seed") == NodeInput("10", "seed")


@pytest.mark.parametrize("name", ["Sampler.seed", "seed"])
def test_a_name_with_two_meanings_is_an_error_that_names_both(name):
    with pytest.raises(CraftError, match=r"2\.seed \(Main v1\.5\), 10\.seed \(Refiner\)"):
        inputs(SECOND).find(name)
    assert inputs(SECOND).find("Refiner.seed") == NodeInput("10", "seed")


def test_a_linked_input_is_meant_only_by_its_node():
    linked = {"class_type": "Sampler", "inputs": {"seed": ["2", 0]}}
    assert inputs(linked).find("seed") == NodeInput("2", "seed")
    assert inputs(linked).find("10.seed") == NodeInput("10", "seed")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("9.seed", r"no node is called '9'.*1 \(Content/Style Router\)"),
        ("2.model", r"2 \(Main v1\.5\) has no such input.*seed"),
        ("strenth", "No input is called 'strenth'.*content_strength"),
    ],
)
def test_a_name_for_nothing_says_what_there_is(name, words):
    with pytest.raises(CraftError, match=words):
        inputs().find(name)


def test_values_have_the_type_that_the_schema_asks_for():
    named = inputs()
    texts = {
        "2.seed": "12",
        "2.strength": "2",
        "2.preview": "False",
        "1.prompt": "3",
        "1.content_lora": "dog",
        "1.style_lora": "oil.safetensors",
    }
    prompt = named.with_values({named.find(name): text for name, text in texts.items()})
    assert prompt["2"]["inputs"] == {
        "model": ["1", 0], "seed": 12, "preview": False, "strength": 2.0,
    }  # fmt: skip
    assert isinstance(prompt["2"]["inputs"]["strength"], float)
    assert prompt["1"]["inputs"]["prompt"] == "3"
    assert prompt["1"]["inputs"]["content_lora"] == LORAS[0]
    assert prompt["1"]["inputs"]["style_lora"] == LORAS[3]
    assert named.prompt == PROMPT  # not written to


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("INT", "1.5", "whole number"),
        ("FLOAT", "nan", "a number"),
        ("FLOAT", "inf", "a number"),
        ("BOOLEAN", "perhaps", "true or false"),
    ],
)
def test_a_text_that_is_no_such_value_is_an_error(kind, text, words):
    with pytest.raises(CraftError, match=words):
        typed("x", [kind], text)


def test_a_short_name_for_two_entries_is_an_error_and_an_unknown_entry_is_the_servers_to_refuse():
    choices = [["a/x.pt", "b/x.pt", "y.pt"]]
    with pytest.raises(CraftError, match="2 entries.*a/x.pt, b/x.pt"):
        typed("n", choices, "x")
    assert typed("n", choices, "a/x") == "a/x.pt"
    assert typed("n", choices, "z") == "z"


@pytest.mark.parametrize("slash", ["/", "\\"])
@pytest.mark.parametrize(
    "text", ["style/ink.pt", "style\\ink.pt", "style/ink", "style\\ink", "ink"]
)
def test_a_file_in_a_subfolder_is_named_with_either_slash(slash, text):
    choices = [[f"style{slash}ink.pt", "ink_2.pt"]]
    assert typed("n", choices, text) == choices[0][0]
    assert typed("n", choices, "other\\ink") == "other\\ink"


@pytest.mark.parametrize("text", ["fa\u0308rg.pt", "f\u00e4rg.pt", "fa\u0308rg", "f\u00e4rg"])
@pytest.mark.parametrize("entry", ["fa\u0308rg.pt", "f\u00e4rg.pt"])
def test_a_file_is_named_with_accents_as_letters_of_their_own_or_not(entry, text):
    """A Mac may have them so."""
    assert typed("n", [[entry]], text) == entry


NFC, NFD = "\u00e9.pt", "e\u0301.pt"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("text", "entries", "meant"),
    [
        (f"x\\{NFC}", [f"x/{NFD}", f"x/{NFC}"], f"x/{NFC}"),
        (f"x\\{NFD}", [f"x/{NFD}", f"x/{NFC}"], f"x/{NFD}"),
        (f"x/{NFC}", [f"x\\{NFD}", f"x\\{NFC}"], f"x\\{NFC}"),
        (NFC, [NFD, NFC], NFC),
        ("x\\a.pt", ["x/a.pt", "x\\a.pt"], "x\\a.pt"),  # a file's own name on Linux
        ("x/a.pt", ["x/a.pt", "x\\a.pt"], "x/a.pt"),
        (f"x\\{NFC}", [f"x\\{NFD}", f"x/{NFC}"], f"x/{NFC}"),
        ("x\\a.pt", ["x/a.pt", "x/a.pt"], "x/a.pt"),
    ],
)
def test_of_files_whose_names_are_alike_the_nearest_name_is_meant(text, entries, meant, order):
    assert typed("n", [entries[::order]], text) == meant
    assert _name_in([entries[::order]], text) == meant
    for one in (*entries, text, "x/none.pt"):
        assert FileNames(entries[::order]).same(one) == same_files(one, entries[::order])


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (f"x\\{NFC}", [f"x/{NFD}", f"x\\{NFD}"]),
        ("x\\y/a.pt", ["x/y/a.pt", "x/y\\a.pt"]),
    ],
)
def test_where_several_are_as_near_none_is_taken(text, entries):
    with pytest.raises(CraftError, match="may mean 2 entries"):
        typed("n", [entries], text)
    assert _name_in([entries], text) == ""


def test_what_has_no_schema_is_json_or_text_and_a_list_is_boxed():
    assert typed("n", None, "[1, 2]") == {"__value__": [1, 2]}
    assert typed("n", None, "plain text") == "plain text"


def test_a_chosen_entry_brings_its_inputs_and_takes_the_old_ones_away():
    named = inputs()
    method, alpha = named.find("method"), named.find("alpha")
    assert named.with_values({method: "mixed"})["1"]["inputs"]["method.alpha"] == 0.5
    both = named.with_values({alpha: "0.25", method: "mixed"})  # in either order
    assert both["1"]["inputs"] | {"method": "mixed", "method.alpha": 0.25} == both["1"]["inputs"]
    back = Inputs(both, OBJECT_INFO).with_values({method: "plain"})
    assert back == PROMPT


def test_an_input_of_an_entry_that_is_not_chosen_is_an_error():
    with pytest.raises(CraftError, match="method is 'plain'"):
        inputs().with_values({inputs().find("alpha"): "0.25"})


# What a server or a file says chooses neither time nor memory

SLOW = 5.0  # seconds of a busy processor; looking at all for each took ten or more


@contextmanager
def quick():
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SLOW


def same_keys(width, depth):
    """Lists in lists, whose entries all have one key."""
    if depth == 0:
        return {"required": {"y": ["INT", {}]}}
    entries = [{"key": "k", "inputs": same_keys(width, depth - 1)} for _ in range(width)]
    return {"required": {"x": ["COMFY_DYNAMICCOMBO_V3", {"options": entries}]}}


@pytest.mark.parametrize(("width", "depth"), [(16, 3), (5000, 1)])
def test_entries_with_one_key_are_looked_at_once(width, depth):
    schema = same_keys(width, depth)
    inner = ".".join(["x"] * depth) + ".y"
    with quick():
        info = known_nodes({"A": {"input": schema}})
        named = Inputs({"1": {"class_type": "A", "inputs": {}}}, info)
        assert named.find("y") == NodeInput("1", inner)
        uses = [("A", inner, f"{number}.pt") for number in range(100)]
        assert _listed(info, uses).keys() == {file for *_, file in uses}


def test_an_entry_that_brings_many_lists_is_chosen_once():
    inner = {"options": [{"key": "b", "inputs": {}}]}
    many = {f"x{number}": ["COMFY_DYNAMICCOMBO_V3", inner] for number in range(20_000)}
    entries = [{"key": "none", "inputs": {}}, {"key": "many", "inputs": {"required": many}}]
    given = {"list": ["COMFY_DYNAMICCOMBO_V3", {"options": entries}]}
    info = known_nodes({"A": {"input": {"required": given}}})
    named = Inputs({"1": {"class_type": "A", "inputs": {"list": "none"}}}, info)
    with quick():
        made = named.with_values({named.find("list"): "many"})
    assert len(made["1"]["inputs"]) == 20_001


def test_names_that_become_long_together_are_refused():
    inner = {str(number): ["INT"] for number in range(300)}
    entry = {"key": "k", "inputs": {"required": inner}}
    given = {"x" * (MOST_LETTERS // 300): ["COMFY_DYNAMICCOMBO_V3", {"options": [entry]}]}
    with quick(), pytest.raises(RemoteError, match="names of"):
        known_nodes({"A": {"input": {"required": given}}})


def test_many_files_are_looked_for_in_a_list_that_is_read_once():
    files = [f"{number}.safetensors" for number in range(20_000)]
    prompt = {"1": {"class_type": "A", "inputs": {"lora": files[0]}}}
    named = Inputs(prompt, {"A": {"input": {"required": {"lora": [files]}}}})
    with quick():
        for number in range(10_000, 20_000):
            (one,) = named.with_values({NodeInput("1", "lora"): f"{number}"}).values()
            assert one["inputs"]["lora"] == files[number]


MANY = {f"i{number}": ["FLOAT", {"default": 0}] for number in range(40)}
FEW = {"seed": ["INT", {}], "at": ["INT", {}]}
INFO = known_nodes({"A": {"input": {"required": MANY}}, "B": {"input": {"required": FEW}}})


def test_each_question_about_a_large_prompt_takes_a_moment_and_no_memory():
    prompt = {str(number): {"class_type": "A", "inputs": {}} for number in range(20_000)}
    prompt["x"] = {"class_type": "B", "inputs": {"seed": 1}}
    with quick():
        named = Inputs(prompt, INFO)
        for _ in range(3):
            assert named.find("seed") == named.find("x.seed") == named.find("B.seed")
            assert named.find("at") == NodeInput("x", "at")
            for name in ("i7", "A.i7", "nothing", "x.nothing"):
                with pytest.raises(CraftError):
                    named.find(name)
    tracemalloc.start()
    named = Inputs(prompt, INFO)
    named.find("seed")
    size, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


def test_a_prompt_of_more_parts_than_a_page_may_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "MOST_PARTS", 1000)
    file = tmp_path / "w.json"
    for nodes, links, is_read in ((1000, 0, True), (1001, 0, False), (2, 998, False)):
        inputs = {str(number): ["0", 0] for number in range(links)}
        whole = {str(number): {"class_type": "A", "inputs": inputs} for number in range(nodes)}
        file.write_text(json.dumps(whole))
        if is_read:
            assert len(read_both(file, INFO)[0]) == nodes
            continue
        with pytest.raises(CraftError, match="more than 1000 nodes and links"):
            read_both(file, INFO)


def test_an_input_whose_own_name_has_a_dot_is_set():
    info = known_nodes({"A": {"input": {"required": {"a.b": ["INT", {}], "c": ["INT", {}]}}}})
    named = Inputs({"1": {"class_type": "A", "inputs": {"c": 1}}}, info)
    assert named.with_values({named.find("a.b"): "3"})["1"]["inputs"] == {"c": 1, "a.b": 3}
