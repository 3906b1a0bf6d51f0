"""Kinds that no branch carries, known by the endings of their keys, with the reason."""

from __future__ import annotations

from .kinds import KINDS, RefusedKind, ending


def _refused(name: str, pattern: str, reason: str) -> RefusedKind:
    return RefusedKind(name, ending(pattern), reason)


KINDS.refuse(
    _refused("OFT or BOFT of another layout", r"\.(oft|boft)_(?!blocks\Z)\w+(\.[^.]+)*",
             "the host reads in no layout but LyCORIS'"),
    _refused("GLoRA with a core", r"\.bm[12]?\.weight", "has a factor that the host does not read"),
    _refused("IA3 of PEFT", r"\.ia3_l(\.[^.]+)*", "multiplies the bias, too"),
    _refused("T-LoRA", r"\.lambda_layer|\.[qp]_layer\.weight",
             "leaves out of the file what it started from"),
    _refused("AdaLoRA", r"\.lora_E(\.[^.]+)*|\.ranknum(\.[^.]+)*",
             "has a third factor between down and up"),
    _refused("VeRA", r"\.vera_lambda_[bd](\.[^.]+)*",
             "leaves its random factors out of the file"),
    _refused("bias of a down factor", r"\.lora_(A|down)(\.[^.]+)?\.bias",
             "sits inside the product"),
    _refused("replaced weight", r"\.set_weight", "adds nothing, it replaces"),
    _refused("widened weight", r"\.reshape_weight", "changes the weight's shape"),
    _refused("embedding LoRA", r"\.lora_embedding_[AB](\.[^.]+)*", "changes an embedding"),
)  # fmt: skip
