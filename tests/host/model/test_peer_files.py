"""Files written by LyCORIS and PEFT themselves: what the host's loader makes of them, and what the
library's own forward pass does.

The libraries lie beside the environment (launcher/run/environment.py), and are on Python's path
only while they are imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import oracle
import pytest
import safetensors.torch
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import lora_layers
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, branch, read_branch_file
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.types import Bank, constant_gates
from torch import nn

from launcher.run.environment import PINNED

sys.path.append(str(PINNED.peers))
import lycoris  # noqa: E402
import peft  # noqa: E402
from lycoris.config import PRESET  # noqa: E402

sys.path.remove(str(PINNED.peers))

# pytest-xdist would hand a warning of theirs to a process that has not the libraries.
pytestmark = pytest.mark.filterwarnings("ignore")

BOTH, LIBRARY, HOST = ("library", "host"), ("library",), ("host",)


@dataclass(frozen=True)
class Case:
    """settings: of LyCORIS. agrees: whom the Router agrees with; the two differ where it is one
    alone. size: of the changes that stand for a training. has_forward: whether the library runs in
    the host's classes."""

    settings: dict[str, Any]
    agrees: tuple[str, ...] = BOTH
    size: float = 0.1
    has_forward: bool = True


LYCORIS = {
    "LoRA": Case({"algo": "lora"}),
    "LoRA with scalar": Case({"algo": "lora", "use_scalar": True}, size=0.2),
    "LoCon": Case({"algo": "locon", "conv_dim": 3, "conv_alpha": 2}),
    "LoCon Tucker": Case({"algo": "locon", "conv_dim": 3, "use_tucker": True}),
    "LoHa": Case({"algo": "loha"}, size=0.05),
    "LoHa Tucker": Case({"algo": "loha", "use_tucker": True}, size=0.05),
    "LoKr": Case({"algo": "lokr", "factor": 4}, size=0.05),
    "LoKr full": Case({"algo": "lokr", "factor": 4, "full_matrix": True}, size=0.05),
    "LoKr both in two": Case(
        {"algo": "lokr", "factor": 8, "decompose_both": True, "linear_dim": 1, "conv_dim": 1},
        size=0.05,
    ),
    "norms": Case({"algo": "lora", "train_norm": True}),
    "DoRA of inputs": Case({"algo": "lora", "dora_wd": True, "wd_on_output": False}),
    "OFT": Case({"algo": "diag-oft"}, size=0.05),
    "BOFT": Case({"algo": "boft"}, size=0.05),
    "BOFT rescaled": Case({"algo": "boft", "rescaled": True}, size=0.05),
    "GLoRA": Case({"algo": "glora"}, size=0.05),
    # written of the weights themselves, which LyCORIS takes out of the layers
    "full": Case({"algo": "full"}, HOST, size=0.02, has_forward=False),
    # whose forward pass has another, random rank at each call
    "DyLoRA": Case({"algo": "dylora"}, HOST, has_forward=False),
    # the host logs an error for the layers with a core and goes on
    "LoKr Tucker": Case(
        {"algo": "lokr", "factor": 4, "use_tucker": True, "linear_dim": 1, "conv_dim": 1},
        LIBRARY, size=0.05,
    ),
    # the host has no such kind
    "IA3": Case({"algo": "ia3"}, LIBRARY),
    # the host takes the norms of the weight alone, LyCORIS those of weight and update
    "DoRA": Case({"algo": "lora", "dora_wd": True}, HOST),
    "DoRA over LoHa": Case({"algo": "loha", "dora_wd": True}, HOST, size=0.05),
    "DoRA over LoKr": Case({"algo": "lokr", "factor": 4, "dora_wd": True}, HOST, size=0.05),
    # the host does not multiply by the factors that LyCORIS multiplies by
    "OFT rescaled": Case({"algo": "diag-oft", "rescaled": True}, HOST, size=0.05),
    # the host bounds |Q| by alpha, LyCORIS by alpha times the outputs
    "OFT bounded": Case({"algo": "diag-oft", "constraint": 0.1}, HOST, size=0.05),
}  # fmt: skip

_LAYERS = ["in_layers.2", "emb_layers.1", "to_q", "to_k", "to_v", "to_out.0", "proj_in", "net.2"]
_LINEAR = _LAYERS[1:]
_WITH_BIAS = ["emb_layers.1", "to_out.0", "proj_in", "net.2"]


@dataclass(frozen=True)
class Peft:
    config: Callable[[], peft.PeftConfig]
    agrees: tuple[str, ...] = BOTH


def _lora(**settings: Any) -> Callable[[], peft.PeftConfig]:
    given = {"r": 4, "lora_alpha": 4, "target_modules": _LAYERS} | settings
    return lambda: peft.LoraConfig(**given)


PEFT = {
    "LoRA": Peft(_lora()),
    "LoHa": Peft(lambda: peft.LoHaConfig(r=4, alpha=4, target_modules=_LAYERS)),
    "LoHa Tucker": Peft(
        lambda: peft.LoHaConfig(r=4, alpha=4, use_effective_conv2d=True, target_modules=_LAYERS)
    ),
    "LoKr": Peft(lambda: peft.LoKrConfig(r=4, alpha=4, target_modules=_LAYERS)),
    # the host reads no metadata, and none of PEFT's own parts of a LoRA
    "LoRA with alpha": Peft(_lora(lora_alpha=8), LIBRARY),
    "LoRA with patterns": Peft(
        _lora(rank_pattern={"to_q": 2}, alpha_pattern={"to_k": 2, "net.2": 16}), LIBRARY
    ),
    "rsLoRA": Peft(_lora(use_rslora=True), LIBRARY),
    "DoRA": Peft(_lora(use_dora=True), LIBRARY),
    "LoRA with bias": Peft(_lora(lora_bias=True, target_modules=_WITH_BIAS), LIBRARY),
    "LoKr Tucker": Peft(
        lambda: peft.LoKrConfig(
            r=2, alpha=2, use_effective_conv2d=True, decompose_factor=4, target_modules=_LAYERS
        ),
        LIBRARY,
    ),
}
REFUSED = {
    "OFT": (lambda: peft.OFTConfig(oft_block_size=4, target_modules=_LINEAR), "OFT or BOFT of"),
    "IA3": (lambda: peft.IA3Config(target_modules=_LAYERS, feedforward_modules=["net.2"]),
            "IA3 of PEFT, which multiplies the bias, too"),
    "AdaLoRA": (lambda: peft.AdaLoraConfig(init_r=4, total_step=9, target_modules=_LINEAR),
                "AdaLoRA, which has a third factor"),
    "HRA": (lambda: peft.HRAConfig(r=4, target_modules=_LINEAR), "unknown kind.*hra_u"),
    "FourierFT": (lambda: peft.FourierFTConfig(n_frequency=9, target_modules=_LINEAR),
                  "unknown kind.*fourierft_spectrum"),
}  # fmt: skip

_BLOCKS = ["SpatialTransformer", "ResBlock", "Downsample", "Upsample"]
PRESET["blocks"] = {  # kohya's names, on what a UNet of the host consists of
    "enable_conv": True, "target_module": _BLOCKS, "target_name": [], "lora_prefix": "lora_unet",
}  # fmt: skip


def trained(parameters, size: float) -> None:
    """Seeded changes of parameters, in the place of a training's."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in parameters:
            one.add_(size * torch.randn(one.shape, generator=generator))


def by_lycoris(path: Path, network: nn.Module, size: float, **settings: Any) -> None:
    """Write an adapter that LyCORIS has put on a network; the network is left with it, so that its
    forward pass is LyCORIS' own."""
    given = {"linear_dim": 4, "linear_alpha": 2} | settings
    made = lycoris.create_lycoris(network, 1.0, preset="blocks", warn_on_unmatched=False, **given)
    trained((one for lora in made.loras for one in lora.parameters()), size)
    made.apply_to()
    made.eval().requires_grad_(False)
    made.save_weights(str(path), None, {})


def by_peft(path: Path, network: nn.Module, config: peft.PeftConfig) -> None:
    """The same of PEFT: tensors under the network's own names; a LoRA's configuration in the
    metadata, as diffusers stores it."""
    peft.inject_adapter_in_model(config, network)
    trained((one for one in network.parameters() if one.requires_grad), 0.1)
    network.eval().requires_grad_(False)
    state = peft.get_peft_model_state_dict(network)
    tensors = {f"diffusion_model.{key}": tensor.contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(tensors, path, _metadata(config.to_dict()))


def _metadata(entries: Mapping[str, Any]) -> dict[str, str]:
    stated = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    if "lora_alpha" not in entries:
        return {}
    return {"lora_adapter_metadata": json.dumps({name: entries[name] for name in stated})}


POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


def sampled(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(size=8), steps=3)


def routed(model, path):
    """The MODEL with the file as a branch of strength 1, as the Router reads it."""
    chosen = BranchFile(path.name, "content", 1.0, path=str(path))
    bank = Bank.of([branch(chosen, read_branch_file(chosen, model))], list(lora_layers(model)))
    ones = constant_gates(torch.ones(len(bank.layers), 1))
    return engine.attach(model, bank, compose(ones, bank))


def loaded(model, path):
    """What the host's LoraLoader makes of the file."""
    state = comfy.utils.load_torch_file(str(path), safe_load=True)
    return comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)[0]


def assert_agrees(model, path, agrees, library) -> None:
    """library: the samples of its own forward pass; None where it has none here."""
    plain, ours, host = sampled(model), sampled(routed(model, path)), sampled(loaded(model, path))
    assert oracle.distance(ours, plain) > 100 * oracle.LAW, "the file must matter"
    references = {"host": host} | ({} if library is None else {"library": library})
    near = {name for name, one in references.items() if oracle.distance(ours, one) <= oracle.LAW}
    assert near == set(agrees), {n: oracle.distance(ours, one) for n, one in references.items()}


@pytest.mark.parametrize("kind", LYCORIS)
def test_a_file_of_lycoris_acts_as_in_the_host_or_where_that_drops_it_as_in_lycoris(kind, tmp_path):
    case, model, twin = LYCORIS[kind], tiny.sdxl(), tiny.sdxl()
    path = tmp_path / "lycoris.safetensors"
    by_lycoris(path, twin.model.diffusion_model, case.size, **case.settings)
    library = sampled(twin) if case.has_forward else None
    assert_agrees(model, path, case.agrees, library)


@pytest.mark.parametrize("kind", PEFT)
def test_a_file_of_peft_acts_as_in_peft(kind, tmp_path):
    case, model, twin = PEFT[kind], tiny.sdxl(), tiny.sdxl()
    path = tmp_path / "peft.safetensors"
    by_peft(path, twin.model.diffusion_model, case.config())
    assert_agrees(model, path, case.agrees, sampled(twin))


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_of_peft_that_no_branch_carries_are_refused_by_name(kind, tmp_path):
    """The host leaves them out, and says so in its log alone."""
    config, told = REFUSED[kind]
    model, path = tiny.sdxl(), tmp_path / "peft.safetensors"
    by_peft(path, tiny.sdxl().model.diffusion_model, config())
    with pytest.raises(CraftError, match=told):
        routed(model, path)


def test_t_lora_is_refused_by_name(tmp_path):
    """Its file has what training made of a start, and not the start; the host leaves it out."""

    class SpatialTransformer(nn.Sequential):
        """Small, as T-LoRA takes singular values of all that it adapts."""

    path = tmp_path / "lycoris.safetensors"
    by_lycoris(path, nn.Sequential(SpatialTransformer(nn.Linear(8, 8))), 0.1, algo="tlora")
    with pytest.raises(CraftError, match="T-LoRA, which leaves out of the file what it started"):
        routed(tiny.sdxl(), path)
