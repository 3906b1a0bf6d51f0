"""The finished share of a prompt, from events in the order in which the server sends them."""

from craft_lora_pack.client.progress import RunProgress
from fake_comfyui import PROMPT


def test_nodes_count_alike_and_the_running_one_by_its_steps():
    progress = RunProgress(PROMPT)
    assert (progress.done, progress.total, progress.share) == (0, 3, 0.0)
    progress.event("execution_cached", {"nodes": ["1", "not in the prompt"]})
    progress.event("executing", {"node": "2"})
    assert (progress.done, progress.title, progress.share) == (1, "Main v1.5", 1 / 3)
    progress.event("progress", {"value": 5, "max": 10})
    assert progress.share == 1.5 / 3
    progress.event("executing", {"node": "3"})
    assert (progress.done, progress.title, progress.steps) == (2, "Save", 0)
    progress.event("executing", {"node": None})  # the server's word for the end
    assert progress.done == 2


def test_nodes_that_a_node_has_made_do_not_count():
    progress = RunProgress(PROMPT)
    for node in ("1", "2.0.1", "2.0.2", "2"):
        progress.event("executing", {"node": node})
    assert progress.done == 1 and progress.share == 1 / 3
