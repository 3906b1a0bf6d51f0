"""The values of every shipped workflow can be changed, and a picture of the job restores them."""

from __future__ import annotations

import pytest
from craft_lora_pack.client.workflow import read_workflow
from laws.restoring import restored, single_changes
from workflow_prompts import FOLDER

SUBGRAPHS = FOLDER.parent / "subgraphs"
FILES = sorted([*FOLDER.glob("*.json"), *SUBGRAPHS.glob("*.json")])
SHARES = [pytest.param(4, id="a quarter"), pytest.param(1, marks=pytest.mark.sweep, id="all")]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_single_changes_of_a_shipped_workflow_are_restored_exactly(live_server, path, share):
    workflow, info = read_workflow(path), live_server.object_info()
    changes = list(single_changes(workflow, info))
    assert len(changes) > 20
    for name, text in changes[::share]:
        restored(workflow, info, {name: text})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_all_values_of_a_shipped_workflow_are_restored_at_once(live_server, path):
    workflow, info = read_workflow(path), live_server.object_info()
    changes = dict(single_changes(workflow, info))
    restored(workflow, info, {name: text for name, text in changes.items() if name.count(".") < 2})
