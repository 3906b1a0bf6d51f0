"""Run command lines one after another as `python -m craft_core` does; the host starts once.

python command_line.py PLAN ANSWERS. PLAN: JSON, a list of {"arguments": [...], "interrupt": n};
where n is not 0 the process sends itself a real SIGINT when the bar has counted n steps.
ANSWERS: JSON, a list of {"status", "out", "err"}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from unittest.mock import patch

from tqdm import tqdm

ROOT = str(Path(__file__).resolve().parents[3])


def answer(arguments: list[str], interrupt: int) -> dict:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["craft_core", *arguments]
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(tqdm, "update", interrupting(interrupt)),
    ):
        try:
            runpy.run_module("craft_core", run_name="__main__")
        except SystemExit as left:
            status = left.code
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def interrupting(step: int):
    update = tqdm.update

    def run(bar, n=1):
        shown = update(bar, n)
        if step and bar.n == step:
            os.kill(os.getpid(), signal.SIGINT)
        return shown

    return run


if __name__ == "__main__":
    sys.path[0] = ROOT  # as -m has it
    plan = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    answers = Path(sys.argv[2])
    answers.write_text(json.dumps([answer(**one) for one in plan]), "utf-8")
