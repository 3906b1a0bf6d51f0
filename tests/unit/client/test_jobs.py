"""What is fetched of one job is bounded."""

from __future__ import annotations

import pytest
from craft_lora_pack.client import client, jobs
from craft_lora_pack.client.errors import RemoteError
from fake_comfyui import PROMPT, FakeComfyUI, picture


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
