"""The papers behind the methods, once each."""

from __future__ import annotations

from .registry import Paper

CRAFT = Paper(
    title="CRAFT-LoRA: Content-Style Personalization via Rank-Constrained Adaptation and "
    "Training-Free Fusion",
    authors="Yu Li, Yujun Cai, Chi Zhang",
    year=2026,
    arxiv="2602.18936",
)
B_LORA = Paper(
    title="Implicit Style-Content Separation using B-LoRA",
    authors="Yarden Frenkel, Yael Vinker, Ariel Shamir, Daniel Cohen-Or",
    year=2024,
    arxiv="2403.14572",
)
