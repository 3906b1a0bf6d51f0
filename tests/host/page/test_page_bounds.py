"""No model file chooses how long the page waits for its layers."""

from __future__ import annotations

from pathlib import Path

from budget import hold_to_budget

HOSTILE = Path(__file__).parents[2] / "unit" / "parts" / "hostile_checkpoints.py"


def test_every_header_is_answered_or_refused_within_its_budget(tmp_path):
    hold_to_budget(HOSTILE, tmp_path, least=36)
