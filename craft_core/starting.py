"""The values that a fusion starts with before the user has set any.

The Router's menu, the shipped subgraph and the insertion into a graph all begin with these;
`python run.py locales` writes them into web/js/lib/core.js for the page.
"""

from __future__ import annotations

FULL_STRENGTH = 1.0
GUIDED_STRENGTHS = (0.3, 0.5)
"""Where to start if ACFG multiplies the LoRAs by cfg: 1.5 / cfg at cfg 5 and at cfg 3; what
is inserted has the upper."""
FLOOR = 0.5
"""Of a schedule that comes with the Router; a schedule added alone has none."""
