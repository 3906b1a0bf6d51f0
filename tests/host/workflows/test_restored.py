"""Every value of every shipped workflow can be changed, and a picture of the job restores it."""

from __future__ import annotations

import pytest
from craft_lora_pack.client.workflow import read_workflow
from laws.restoring import restored, single_changes
from workflow_prompts import FOLDER

SUBGRAPHS = FOLDER.parent / "subgraphs"
FILES = sorted([*FOLDER.glob("*.json"), *SUBGRAPHS.glob("*.json")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_single_change_of_a_shipped_workflow_is_restored_exactly(live_server, path):
    workflow, info = read_workflow(path), live_server.object_info()
    changes = list(single_changes(workflow, info))
    assert len(changes) > 20
    for name, text in changes:
        restored(workflow, info, {name: text})
