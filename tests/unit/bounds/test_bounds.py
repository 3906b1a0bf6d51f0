"""No file and no text chooses how long it takes to read, or how much memory."""

from __future__ import annotations

from pathlib import Path

from budget import hold_to_budget

HOSTILE = Path(__file__).parents[1] / "parts" / "hostile.py"
WITHIN = Path(__file__).with_name("within_limits.py")


def test_every_input_is_answered_or_refused_within_its_budget(tmp_path):
    hold_to_budget(HOSTILE, tmp_path, least=180)


def test_what_keeps_just_within_every_limit_is_answered_within_its_budget(tmp_path):
    hold_to_budget(WITHIN, tmp_path, least=100)
