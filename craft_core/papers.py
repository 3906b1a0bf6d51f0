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
CLASSIFIER_FREE_GUIDANCE = Paper(
    title="Classifier-Free Diffusion Guidance",
    authors="Jonathan Ho, Tim Salimans",
    year=2022,
    arxiv="2207.12598",
)
COMPOSABLE_DIFFUSION = Paper(
    title="Compositional Visual Generation with Composable Diffusion Models",
    authors="Nan Liu, Shuang Li, Yilun Du, Antonio Torralba, Joshua B. Tenenbaum",
    year=2022,
    arxiv="2206.01714",
)
AUTOGUIDANCE = Paper(
    title="Guiding a Diffusion Model with a Bad Version of Itself",
    authors="Tero Karras, Miika Aittala, Tuomas Kynkaanniemi, Jaakko Lehtinen, Timo Aila, "
    "Samuli Laine",
    year=2024,
    arxiv="2406.02507",
)
B_LORA = Paper(
    title="Implicit Style-Content Separation using B-LoRA",
    authors="Yarden Frenkel, Yael Vinker, Ariel Shamir, Daniel Cohen-Or",
    year=2024,
    arxiv="2403.14572",
)
K_LORA = Paper(
    title="K-LoRA: Unlocking Training-Free Fusion of Any Subject and Style LoRAs",
    authors="Ziheng Ouyang, Zhen Li, Qibin Hou",
    year=2025,
    arxiv="2502.18461",
)
EST_LORA = Paper(
    title="Subject or Style: Adaptive and Training-Free Mixture of LoRAs",
    authors="Jia-Chen Zhang, Yu-Jie Xiong",
    year=2025,
    arxiv="2508.02165",
)
NP_LORA = Paper(
    title="NP-LoRA: Null Space Projection Unifies Subject and Style in LoRA Fusion",
    authors="Chuheng Chen, Xiaofei Zhou, Geyuan Zhang, Yong Huang",
    year=2025,
    arxiv="2511.11051",
)
LORA_COMPOSITION = Paper(
    title="Multi-LoRA Composition for Image Generation",
    authors="Ming Zhong, Yelong Shen, Shuohang Wang, Yadong Lu, Yizhu Jiao, Siru Ouyang, "
    "Donghan Yu, Jiawei Han, Weizhu Chen",
    year=2024,
    arxiv="2402.16843",
)
ZIP_LORA = Paper(
    title="ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs",
    authors="Viraj Shah, Nataniel Ruiz, Forrester Cole, Erika Lu, Svetlana Lazebnik, "
    "Yuanzhen Li, Varun Jampani",
    year=2023,
    arxiv="2311.13600",
)
DUO_LORA = Paper(
    title="DuoLoRA: Cycle-consistent and Rank-disentangled Content-Style Personalization",
    authors="Aniket Roy, Shubhankar Borse, Shreya Kadambi, Debasmit Das, Shweta Mahajan, "
    "Risheek Garrepalli, Hyojin Park, Ankita Nayak, Rama Chellappa, Munawar Hayat, Fatih Porikli",
    year=2025,
    arxiv="2504.13206",
)
B4M = Paper(
    title="B4M: Breaking Low-Rank Adapter for Making Content-Style Customization",
    authors="Yu Xu, Fan Tang, Juan Cao, Yuxin Zhang, Oliver Deussen, Weiming Dong, Jintao Li, "
    "Tong-Yee Lee",
    year=2025,
    arxiv="2403.19456",
)
TIES = Paper(
    title="TIES-Merging: Resolving Interference When Merging Models",
    authors="Prateek Yadav, Derek Tam, Leshem Choshen, Colin Raffel, Mohit Bansal",
    year=2023,
    arxiv="2306.01708",
)
DARE = Paper(
    title="Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free "
    "Lunch",
    authors="Le Yu, Bowen Yu, Haiyang Yu, Fei Huang, Yongbin Li",
    year=2023,
    arxiv="2311.03099",
)
KNOTS = Paper(
    title="Model Merging with SVD to Tie the KnOTS",
    authors="George Stoica, Pratik Ramesh, Boglarka Ecsedi, Leshem Choshen, Judy Hoffman",
    year=2024,
    arxiv="2410.19735",
)
