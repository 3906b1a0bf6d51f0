"""LoRAs on quantised models: nothing that our engine adds is rounded to the stored format."""

from __future__ import annotations

from functools import partial

import comfy.model_management
import oracle
import pytest
import tiny
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from craft_lora_pack.comfy_adapter.engine.modules import model_layers, weight_now
from craft_lora_pack.comfy_adapter.engine.weights import in_weights
from craft_lora_pack.craft_core.errors import CraftError
from oracle import LAW, distance
from quantised import FORMATS, QUANTISED, ROUND_INPUTS, errors, quantised
from torch import Tensor, nn
from torch.nn import functional
from two_loras import NEGATIVE, POSITIVE, STRENGTHS, loras, routed, two_loaders


@pytest.mark.parametrize("name", FORMATS)
def test_on_a_quantised_model_ours_is_the_exact_sum_where_layers_do_not_round_their_inputs(name):
    found = errors(name)
    assert found.effect > 0.5  # the LoRAs do something
    if name in ROUND_INPUTS:
        # The host's own layers are no exact sum then, and how far they are off differs with the
        # processor's integer products, so neither way is always the nearer one. What ours adds to
        # such a layer is held by the next test.
        assert found.base > LAW and found.ours < found.effect
    else:
        assert found.ours <= LAW and found.ours < found.host


@torch.inference_mode()
@pytest.mark.parametrize("name", FORMATS)
def test_what_ours_adds_to_a_quantised_layer_is_the_exact_sum(name):
    """Layer by layer in a sampling run, and so also where the layer itself rounds its inputs."""
    model = quantised(name)
    states = loras(model_layers(model))
    network = model.model.diffusion_model
    before, after = {}, {}

    def keep_after(path, _layer, inputs, output):
        after[path] = (inputs[0].clone(), output.clone())

    def keep_before(path, layer, _inputs, output):
        """Its first call places `keep_after` behind the hook of the engine, for the second."""
        if path not in before:
            layer.register_forward_hook(partial(keep_after, path))
        before[path] = output.clone()

    deltas = [oracle.dense_deltas(state, model_layers(model)) for state in states]
    linears = {path for path in deltas[0] if isinstance(network.get_submodule(path), nn.Linear)}
    for path in linears:
        network.get_submodule(path).register_forward_hook(partial(keep_before, path))
    sample(routed(model, states))
    assert after.keys() == linears
    for path, (x, found) in after.items():
        delta = sum(w * delta[path] for w, delta in zip(STRENGTHS, deltas, strict=True))
        wanted = before[path].double() + x.double() @ delta.to(x.device).double().T
        assert distance(found.double(), wanted) <= LAW, path
        assert distance(before[path], found) > LAW, path


@torch.inference_mode()
@pytest.mark.parametrize("name", FORMATS)
def test_what_an_update_takes_of_a_quantised_weight_is_plain_float32(name):
    network = quantised(name).model.diffusion_model
    for path in (one for one, layer in network.named_modules() if isinstance(layer, nn.Linear)):
        layer = network.get_submodule(path)
        stored = layer.weight.detach()
        stored = stored.dequantize() if isinstance(stored, QuantizedTensor) else stored
        found = weight_now(layer, torch.zeros(1))
        assert type(found) is Tensor and found.dtype == torch.float32
        assert torch.equal(found, stored.float()), path


def test_every_format_of_the_host_is_compared():
    assert {form.algorithm for form in QUANTISED.values()} == set(QUANT_ALGOS)


@torch.inference_mode()
@pytest.mark.parametrize("name", QUANTISED)
def test_a_routed_quantised_model_is_saved_as_the_hosts_loader_quantises_it(name):
    """Both round the same sums but for float32's order; few values may round to the next one."""
    model = quantised(name)
    states = loras(model_layers(model))
    files = []
    for made in (in_weights(routed(model, states)), two_loaders(model, states)):
        comfy.model_management.load_models_gpu([made])
        files.append({key: value.clone() for key, value in made.state_dict_for_saving().items()})
    ours, theirs = files
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        if value.dtype.itemsize == 1:
            assert (ours[key].view(torch.uint8) == value.view(torch.uint8)).float().mean() > 0.98
        elif value.numel():
            assert distance(ours[key], value) <= LAW, key


class Q8(nn.Module):
    """A linear layer as GGUF loaders have it: the weight is bytes in ggml's Q8_0, blocks of a
    float16 scale and 32 int8, dequantised at each call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        blocks = layer.weight.reshape(-1, 32)
        scales = (blocks.abs().amax(1, keepdim=True) / 127).half()
        values = (blocks / scales.float()).round().to(torch.int8)
        packed = torch.cat([scales.view(torch.uint8), values.view(torch.uint8)], 1)
        stored = packed.reshape(self.out_features, -1)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = layer.bias

    def dequantised(self) -> Tensor:
        packed = self.weight.reshape(-1, 34)
        scales = packed[:, :2].contiguous().view(torch.float16).float()
        values = packed[:, 2:].contiguous().view(torch.int8).float()
        return (scales * values).reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dequantised().to(x.dtype), self.bias)


def packed_and_exact():
    """(a MODEL with Q8_0 layers, the same weights dequantised in float32)"""
    model, true = tiny.sdxl(), tiny.sdxl()
    network, exact = model.model.diffusion_model, true.model.diffusion_model
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear) and layer.in_features % 32 == 0:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, Q8(layer))
            exact.get_submodule(path).weight.data = network.get_submodule(path).dequantised()
    return model, true


def sample(model) -> Tensor:
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=2)


@pytest.mark.parametrize("stated", [torch.float32, torch.uint8, torch.float8_e4m3fn])
def test_on_packed_bytes_the_adapter_stays_a_float_and_the_sum_exact(stated):
    """stated: what the loader left as the model's type; layers compute in their inputs' type."""
    model, true = packed_and_exact()
    states = loras(model_layers(model))
    model.model.get_dtype_inference = lambda: stated
    ours = routed(model, states)
    modules = [patcher.model for patcher in ours.get_nested_additional_models()]
    assert {p.dtype for one in modules for p in one.parameters()} == {torch.float32}
    del model.model.get_dtype_inference
    assert distance(sample(ours), sample(two_loaders(true, states))) <= LAW


class SVDQW4A4Linear(nn.Module):
    """The parts of Nunchaku's layer that tell what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features = self.out_features = 64
        self.qweight = nn.Parameter(torch.zeros(64, 32, dtype=torch.int8), requires_grad=False)


class Opaque(nn.Module):
    """Of Nunchaku's package, with nothing of a layer to be seen."""


Opaque.__module__ = "nunchaku.models.transformers.transformer_flux"


@pytest.mark.parametrize("kind", [SVDQW4A4Linear, Opaque])
def test_a_nunchaku_model_is_refused_with_what_to_use(kind):
    model = tiny.sdxl()
    model.model.diffusion_model.middle_block[1].proj_in = kind()
    with pytest.raises(CraftError, match=r"Nunchaku.*fp8.*GGUF.*own LoRA loaders"):
        model_layers(model)
