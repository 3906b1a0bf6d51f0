"""The values that a fusion starts with before the user has set any.

New nodes begin with these. The shipped subgraphs and the template fusion_sdxl have cfg 5, and an
insertion into a graph keeps its sampler's cfg: their strengths are GUIDED_WEIGHT / cfg. The floors
are the same. `python run.py locales` writes the values into web/js/lib/core.js for the page.
"""

from __future__ import annotations

FULL_STRENGTH = 1.0
"""Where nothing multiplies the LoRAs: standard guidance, and a fused file."""
GUIDED_CFG = 2.0
"""cfg of a new node that guides by ACFG."""
GUIDED_WEIGHT = 1.5
"""Strength times cfg to start with where ACFG multiplies the LoRAs by cfg."""
GUIDED_STRENGTH = GUIDED_WEIGHT / GUIDED_CFG
"""Of a new node whose LoRAs may be guided by ACFG."""
MOST_GUIDED_WEIGHT = 2.0
"""The largest strength times weight that docs/benchmarks.md found good pictures at."""
FLOOR = 0.75
"""Of a schedule that comes with the Router; a schedule added alone has none."""
