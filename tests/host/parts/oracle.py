"""Independent references: two models evaluated separately, with weights merged by hand; and how far
rounding may move a result from the host's, measured on the host itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.sample
import comfy.samplers
import numpy as np
import torch

LAW = 2e-5
"""What the README promises of float32 results, in units of `distance`."""


def dense_deltas(state: dict, layers: dict, stems: dict | None = None) -> dict[str, torch.Tensor]:
    """dW of a kohya state dict by the textbook: alpha / rank * up @ down. stems: by path, where the
    file calls its layers otherwise."""
    deltas = {}
    for path, shape in layers.items():
        stem = stems[path] if stems else "lora_unet_" + path.replace(".", "_")
        if f"{stem}.lora_down.weight" not in state:
            continue
        down, up = state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"]
        scale = float(state[f"{stem}.alpha"]) / down.shape[0]
        product = up.flatten(1).double() @ down.flatten(1).double()
        deltas[path] = (scale * product).float().reshape(shape)
    return deltas


def step_position(sigma: float, sigmas: torch.Tensor) -> float:
    """Progress of a call from the sampler's sigmas: log-linear between its steps."""
    grid = sigmas[:-1].double().cpu().numpy()
    if len(grid) == 1:
        return 0.0
    return float(np.interp(-np.log(sigma), -np.log(grid), np.linspace(0, 1, len(grid))))


def load(model) -> None:
    """Put a model that is called without the host's loading on the host's device."""
    model.model.to(model.load_device)


class TwoModels(comfy.samplers.CFGGuider):
    """Evaluates conditional rows on a second model, whose weights are set before every call, and
    unconditional rows on the first, which is never changed."""

    def __init__(self, backbone, twin, deltas, strengths):
        """deltas: [{path: dW}]; strengths: progress -> one number per delta."""
        super().__init__(backbone)
        self.twin, self.deltas, self.strengths = twin, deltas, strengths
        load(twin)
        modules = dict(twin.model.diffusion_model.named_modules())
        self.layers = {p: modules[p] for d in deltas for p in d}
        self.weights = {p: m.weight.detach().clone() for p, m in self.layers.items()}
        twin.model.current_patcher = twin

    def merge(self, progress: float) -> None:
        factors = self.strengths(progress)
        for path, module in self.layers.items():
            weight = self.weights[path].clone()
            for factor, delta in zip(factors, self.deltas, strict=True):
                if path in delta:
                    weight += factor * delta[path].to(weight.device)
            module.weight.data.copy_(weight)

    def predict_noise(self, x, timestep, model_options, seed=None):
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        self.merge(step_position(float(timestep[0]), sigmas))
        positive, negative = self.conds["positive"], self.conds["negative"]
        cond = self.evaluated(self.twin.model, positive, x, timestep, model_options)
        uncond = self.evaluated(self.inner_model, negative, x, timestep, model_options)
        return comfy.samplers.cfg_function(
            self.inner_model, cond, uncond, self.cfg, x, timestep,
            model_options=model_options, cond=positive, uncond=negative,
        )  # fmt: skip

    def evaluated(self, model, conds, x, timestep, model_options):
        """ControlNets that read the model's weights read them anew, as the model has them now."""
        for entry in conds:
            if "control" in entry:
                entry["control"].pre_run(model, model.model_sampling.percent_to_sigma)
        return comfy.samplers.calc_cond_batch(model, [conds], x, timestep, model_options)[0]


def sample(guider, latent: dict, sampler="euler", scheduler="normal", steps=4, seed=3, denoise=1.0):
    """Run a guider as SamplerCustomAdvanced does."""
    samples = latent["samples"]
    model = guider.model_patcher
    total = steps if denoise >= 1.0 else int(steps / denoise)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, total)[-(steps + 1) :]
    with torch.inference_mode():
        return guider.sample(
            comfy.sample.prepare_noise(samples, seed), samples,
            comfy.samplers.sampler_object(sampler), sigmas,
            denoise_mask=latent.get("noise_mask"), disable_pbar=True, seed=seed,
        )  # fmt: skip


def guider(model, positive, negative, cfg: float = 4.0):
    """The host's plain CFG guider."""
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, negative)
    made.set_cfg(cfg)
    return made


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, in units of the largest value where that exceeds 1."""
    a, b = a.cpu(), b.cpu()
    return ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()


def rounding(plain: torch.Tensor, *others: torch.Tensor) -> float:
    """How far a result may lie from the host's `plain`, given the host's own others.

    Those are the same sums in another order or precision, so their spread is what rounding does
    on this machine. Four times that, and four times float32's precision where it is nothing.
    """
    spread = max(distance(other, plain) for other in others)
    return 4 * (spread + torch.finfo(torch.float32).eps)


def law(plain: torch.Tensor, *others: torch.Tensor) -> float:
    """The published law; more only where the machine moves the host's own result by more."""
    return max(LAW, rounding(plain, *others))


def rounding_of(model, run: Callable) -> float:
    """`rounding` of run(model): against every row of a batch on its own, and against float64."""
    with in_float64(model):
        exact = run(model)
    return rounding(run(model), run(row_by_row(model)), exact)


def row_by_row(model):
    """The model, called for one row of a batch after another: the matrices' sizes differ."""

    def call(apply, given):
        x, conditions = given["input"], given["c"]
        rows = [
            apply(x[i : i + 1], given["timestep"][i : i + 1], **_row(conditions, i, len(x)))
            for i in range(len(x))
        ]
        return torch.cat(rows)

    model = model.clone()
    model.set_model_unet_function_wrapper(call)
    return model


def _row(conditions: dict, i: int, rows: int) -> dict:
    """One row's conditions: a slice of every tensor that has one for each row."""
    return {
        name: value[i : i + 1] if torch.is_tensor(value) and len(value) == rows else value
        for name, value in conditions.items()
    }


@contextmanager
def in_float64(model) -> Iterator[None]:
    """Within this the model's float32 network computes in float64, with the same weights."""
    network = model.model.diffusion_model
    network.double().dtype = torch.float64
    try:
        yield
    finally:
        network.float().dtype = torch.float32
