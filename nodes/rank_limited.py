"""Load Rank-Limited UNet: a model whose weights have lost a learned subspace."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..comfy_adapter.model.basis import (
    FOLDER,
    apply_basis,
    basis_files,
    basis_stamp,
    load_basis,
    load_source,
    require_part,
    source_stamp,
    weight_dtypes,
)
from ..comfy_adapter.page.choices import files
from ..craft_core.errors import CraftError
from ..craft_core.projection import WHICH

NO_FILES = f"(none in models/{FOLDER})"


class LoadRankLimitedUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CRAFTLoadRankLimitedUNet",
            display_name="Load Rank-Limited UNet",
            category="CRAFT-LoRA",
            description="Projects a learned content and style subspace out of a model's weights "
            "(CRAFT-LoRA, Eqs. 1-4), so that LoRAs trained on it interfere less. The model "
            "itself is not changed: you get a patched clone.",
            search_aliases=[
                "rank limited backbone",
                "rank-limited",
                "craft basis",
                "load basis",
                "subspace projection",
                "PaRa",
            ],
            inputs=[
                _source(),
                io.Combo.Input(
                    "basis",
                    options=basis_files() or [NO_FILES],
                    tooltip=f"Basis file in models/{FOLDER}: the subspaces learned for a model "
                    "of the same architecture.",
                ),
                io.Combo.Input(
                    "which",
                    options=list(WHICH),
                    default="both",
                    tooltip="Which subspace to remove: content, style, or the two merged into "
                    "one. A layer that has only one of the two uses that one for 'both'.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fraction of the subspace removed. 1 is the paper's backbone, 0 the "
                    "model as it is.",
                ),
                io.Boolean.Input(
                    "allow_missing",
                    default=False,
                    optional=True,
                    tooltip="Off: a basis with layers this model lacks is an error that lists "
                    "them. On: those layers are left out.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The rank-limited model. LoRAs loaded after this node act on top of "
                    "it in full; LoRAs loaded before it are projected along with the weights.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, basis: str | None, which: str | None, *, source: Any = None):
        # The host hands over `source` because it has nested inputs. Keyword-only, it stays out
        # of the inputs the host takes as checked here. None: its choice is missing or unknown.
        # basis and which are None when another node will give them.
        if source is None:
            return "source: choose diffusion_models, checkpoints or model input."
        if basis is None or which is None:
            return True
        try:
            require_part(basis, which)  # type: ignore[arg-type]
        except CraftError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, basis: str | None = None, source: Any = None, **others: Any) -> str:
        own = "" if basis is None else basis_stamp(basis)
        return f"{own}\n{source_stamp(source)}"

    @classmethod
    def execute(cls, source, basis, which, strength, allow_missing=False) -> io.NodeOutput:
        model = load_source(source)
        return io.NodeOutput(apply_basis(model, load_basis(basis), which, strength, allow_missing))


def _source() -> io.DynamicCombo.Input:
    model = io.Model.Input("model", tooltip="The model to limit, from any loader.")
    unet_name = io.Combo.Input(
        "unet_name",
        options=files("diffusion_models"),
        tooltip="File in models/diffusion_models.",
    )
    weight_dtype = io.Combo.Input(
        "weight_dtype",
        options=weight_dtypes(),
        default="default",
        tooltip="Type the weights are kept in, as in Load Diffusion Model. An fp8 type rounds "
        "the projected weights to fp8 too.",
        advanced=True,
    )
    checkpoint = io.Combo.Input(
        "ckpt_name",
        options=files("checkpoints"),
        tooltip="File in models/checkpoints; only its diffusion model is loaded.",
    )
    return io.DynamicCombo.Input(
        "source",
        options=[
            # The page cannot build a node whose first option has sockets but no widget.
            io.DynamicCombo.Option("diffusion_models", [unet_name, weight_dtype]),
            io.DynamicCombo.Option("checkpoints", [checkpoint]),
            io.DynamicCombo.Option("model input", [model]),
        ],
        tooltip="Where the model comes from: another node, or a file loaded here.",
    )
