"""What is fetched of one job is bounded, and while it waits it says behind how many."""

from __future__ import annotations

import pytest
from craft_lora_pack.client import client
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.facts import as_listed
from craft_lora_pack.client.near import jobs
from fake_comfyui import LORAS, PROMPT, FakeComfyUI, picture
from fake_host import FakeHost


def test_a_jobs_files_together_have_a_bound(monkeypatch):
    monkeypatch.setattr(client, "QUIET", 0.01)
    size = len(picture(1))
    items = [{"filename": f"x_{n}.png", "subfolder": "", "type": "output"} for n in (1, 1, 1)]
    with FakeComfyUI() as server:
        server.outputs = lambda prompt: {"3": {"images": items}}
        for most in (3 * size, 3 * size - 1):
            monkeypatch.setattr(jobs, "MOST_BYTES", most)
            if most == 3 * size:
                assert len(jobs.run(server.url, "me", PROMPT, None, "id-1", None)) == 3
            else:
                with pytest.raises(RemoteError, match=f"more than {most} bytes"):
                    jobs.run(server.url, "me", PROMPT, None, "id-2", None)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_job_says_behind_how_many_it_waits_and_when_it_no_longer_does(monkeypatch, ahead):
    for name, seconds in (("QUIET", 0.01), ("RECEIVE", 0.03), ("BUSY", 0.1), ("FORGETS", 0.1)):
        monkeypatch.setattr(client, name, seconds)
    told, others = [], [f"other-{number}" for number in range(ahead)]
    with FakeComfyUI() as server:
        server.going.clear()
        server.waiting += others
        if not ahead:
            server.going.set()

        def waits(behind):
            told.append(behind)
            if behind:
                server.going.set()

        assert len(jobs.run(server.url, "me", PROMPT, None, "id-1", None, waits)) == 1
    assert set(told) == {ahead, 0} and told[-1] == 0


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("named", [LORAS[0], LORAS[0].replace("/", "\\")])
def test_a_file_is_named_as_the_server_lists_it_whatever_system_it_is_of(windows, named):
    router = PROMPT["1"] | {"inputs": PROMPT["1"]["inputs"] | {"content_lora": named}}
    prompt = PROMPT | {"1": router}
    before = repr(prompt)
    with FakeHost(windows=windows) as server:
        sent = as_listed(client.Client(server.url), prompt)
        assert len(jobs.run(server.url, "me", sent, None, "id-1", None)) == 1
    listed = LORAS[0].replace("/", "\\") if windows else LORAS[0]
    assert sent["1"]["inputs"] == PROMPT["1"]["inputs"] | {"content_lora": listed}
    assert repr(prompt) == before


def test_a_file_that_the_server_does_not_list_keeps_its_name():
    router = PROMPT["1"] | {"inputs": PROMPT["1"]["inputs"] | {"content_lora": "a/none.pt"}}
    with FakeHost(windows=True) as server:
        for kind in ("Router", "Of another pack"):
            prompt = PROMPT | {"1": router | {"class_type": kind}}
            assert as_listed(client.Client(server.url), prompt) == prompt
