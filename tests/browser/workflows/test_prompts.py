"""A workflow file becomes the prompt that the page itself sends for it."""

from __future__ import annotations

import random
from typing import Any

from craft_lora_pack.client.from_page.dynamic_prompts import draw_text
from craft_lora_pack.client.workflow import dynamic_texts, to_prompt

PAGES_OWN = "async () => (await app.graphToPrompt()).output"
DRAWS = 60
PAGES_DRAWS = """async (count) => {
    const drawn = {}
    for (let at = 0; at < count; at++)
        for (const [id, { inputs }] of Object.entries((await app.graphToPrompt()).output))
            (drawn[id] ??= []).push(inputs.value ?? inputs.text)
    return drawn
}"""


def slot(name: str, kind: str, link: int | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **more}


def node(number: int, kind: str, place: int, inputs=(), outputs=(), values=()) -> dict[str, Any]:
    return {
        "id": number, "type": kind, "pos": [place, 0], "size": [300, 200], "flags": {}, "order": 0,
        "mode": 0, "properties": {}, "widgets_values": list(values), "inputs": list(inputs),
        "outputs": [{"name": one, "type": one, "links": []} for one in outputs],
    }  # fmt: skip


def inside(kind: str, inputs, outputs, values, **more: Any) -> dict[str, Any]:
    return {**node(-1, kind, 0, inputs, outputs, values), **more}


def tree(prompt: dict[str, Any], name: str) -> Any:
    """A node with all that leads to it, whatever the ids."""
    one = prompt[name]
    return one["class_type"], {
        key: (tree(prompt, value[0]), value[1]) if isinstance(value, list) else value
        for key, value in one["inputs"].items()
    }


def shown(prompt: dict[str, Any]) -> list[Any]:
    ends = [name for name, one in prompt.items() if one["class_type"] == "PreviewImage"]
    assert ends
    return [tree(prompt, name) for name in ends]


CLIP, TEXT = slot("clip", "CLIP"), "CONDITIONING"
# The page of 0.30.0 misreads two things in the groups that older pages made: lists whose schema is
# written in the old way, and links to widgets. Neither is inside.
GROUP = {
    "nodes": [
        inside("CLIPTextEncode", [CLIP], [TEXT], ["a"], title="First", index=0),
        inside("CLIPTextEncode", [CLIP], [TEXT], ["b"], title="Second", index=1),
        inside("PrimitiveInt", [], ["INT"], [1, "fixed"], index=2),
        inside(
            "ConditioningAverage",
            [slot("conditioning_to", TEXT), slot("conditioning_from", TEXT)],
            [TEXT],
            [1.0],
            index=3,
        ),
        inside("EmptyLatentImage", [], ["LATENT"], [64, 64, 1], index=4),
    ],
    "links": [[0, 0, 3, 0, 5, TEXT], [1, 0, 3, 1, 6, TEXT]],
    "external": [],
}
VALUES = ["a cat", "a dog", 3, "randomize", 0.25, 96, 128, 2]
WITH_GROUP = {
    "id": "5f1d9c1e-0000-4000-8000-000000000001",
    "last_node_id": 9, "last_link_id": 9, "version": 0.4, "config": {}, "groups": [],
    "extra": {"groupNodes": {"Mine": GROUP}},
    "nodes": [
        node(1, "CheckpointLoaderSimple", 0, [], ["MODEL", "CLIP", "VAE"],
             ["craft_small_world.safetensors"]),
        node(2, "workflow>Mine", 400,
             [slot("clip", "CLIP", 1), slot("Second clip", "CLIP", 2)],
             ["INT", TEXT, "LATENT"], VALUES),
        node(3, "KSampler", 800,
             [slot("model", "MODEL", 3), slot("positive", TEXT, 4), slot("negative", TEXT, 5),
              slot("latent_image", "LATENT", 6)],
             ["LATENT"], [1, "fixed", 20, 8.0, "euler", "normal", 1.0]),
        node(4, "VAEDecode", 1200, [slot("samples", "LATENT", 7), slot("vae", "VAE", 8)],
             ["IMAGE"]),
        node(5, "PreviewImage", 1600, [slot("images", "IMAGE", 9)]),
    ],
    "links": [
        [1, 1, 1, 2, 0, "CLIP"], [2, 1, 1, 2, 1, "CLIP"], [3, 1, 0, 3, 0, "MODEL"],
        [4, 2, 1, 3, 1, TEXT], [5, 2, 1, 3, 2, TEXT], [6, 2, 2, 3, 3, "LATENT"],
        [7, 3, 0, 4, 0, "LATENT"], [8, 1, 2, 4, 1, "VAE"], [9, 4, 0, 5, 0, "IMAGE"],
    ],
}  # fmt: skip


def test_a_group_node_of_an_older_page_becomes_what_the_page_makes_of_it(comfy, live_server):
    info = live_server.server.client.object_info()
    comfy.open_workflow(WITH_GROUP, "with_group")
    own = shown(to_prompt(WITH_GROUP, info))
    pages = shown(comfy.evaluate(PAGES_OWN))
    assert own == pages
    assert "'width': 96" in str(own) and "'text': 'a dog'" in str(own)
    comfy.dismiss_alerts()


TEXTS = [
    "a {red|blue} ball",
    "{a|{b|c}d}{|x}",
    r"\{a\|b\} {c\|d|e}",
    "a // {x|y}\n{b|c} /* {d\n|e} */ f",
    "a} b|c {d|e",
]


def test_the_page_draws_in_dynamic_texts_as_we_do(comfy, live_server):
    info = live_server.server.client.object_info()
    encoders = [
        node(at, "CLIPTextEncode", 400 * at, [CLIP], [TEXT], [text])
        for at, text in enumerate(TEXTS)
    ]
    plain = node(len(TEXTS), "PrimitiveStringMultiline", 0, [], ["STRING"], [TEXTS[0]])
    workflow = {**WITH_GROUP, "nodes": [*encoders, plain], "links": [], "extra": {}}
    comfy.open_workflow(workflow, "dynamic")
    pages = {int(id): set(texts) for id, texts in comfy.evaluate(PAGES_DRAWS, DRAWS).items()}
    ours = [{draw_text(text, random.Random(at)) for at in range(DRAWS)} for text in TEXTS]
    assert pages == dict(enumerate([*ours, {TEXTS[0]}]))
    assert dynamic_texts(workflow, info) == {(str(at), "text") for at in range(len(TEXTS))}
