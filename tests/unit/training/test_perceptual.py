"""The perceptual term against torchvision's own VGG-19 with random weights."""

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from craft_core.errors import CraftError
from craft_core.training.perceptual import read_vgg

RELUS = {1, 6, 11, 20, 29}  # in torchvision's `features`


@pytest.fixture(scope="module")
def vgg():
    """VGG-19's features, random, with deep maps as large as the first ones."""
    torchvision = pytest.importorskip("torchvision")
    features = torchvision.models.vgg19(weights=None).features[:30]
    generator = torch.Generator().manual_seed(0)
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            size = (2 / (9 * layer.in_channels)) ** 0.5
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * size
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator) * 0.1
        elif isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    return features.requires_grad_(False)


def state_of(vgg, prefix="features.") -> dict:
    return {f"{prefix}{key}": value.clone() for key, value in vgg.state_dict().items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory, vgg):
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    rest = {"head.fc.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(3)}
    safetensors.torch.save_file(state_of(vgg) | rest, path)
    return path


def oracle(vgg, pictures, targets):
    """Eq. 16 written out, map by map."""
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    a, b = ((x - mean) / std for x in (pictures, targets))
    total = 0
    for index, layer in enumerate(vgg):
        a, b = layer(a), layer(b)
        if index in RELUS:
            total = total + (a - b).pow(2).sum() / a.numel()
    return total


def pictures(batch, height, width, seed):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 16), (37, 22)])
def test_value_and_gradient_are_those_of_torchvisions_network(path, vgg, size):
    ours, reference = (pictures(2, *size, seed=1).requires_grad_(True) for _ in range(2))
    targets = pictures(2, *size, seed=2)
    term, expected = read_vgg(path)(ours, targets), oracle(vgg, reference, targets)
    term.backward()
    expected.backward()
    assert expected > 0.1
    torch.testing.assert_close(term, expected)
    torch.testing.assert_close(ours.grad, reference.grad)


def test_equal_pictures_cost_nothing(path):
    same = pictures(2, 16, 20, seed=3)
    assert read_vgg(path)(same, same.clone()) == 0


def test_pictures_in_a_batch_do_not_touch_each_other(path):
    term = read_vgg(path)
    a, b = pictures(3, 16, 16, seed=4), pictures(3, 16, 16, seed=5)
    alone = torch.stack([term(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(term(a, b), alone.mean())


def test_neither_the_targets_nor_the_network_get_a_gradient(path):
    term = read_vgg(path)
    a, b = (pictures(1, 16, 16, seed).requires_grad_(True) for seed in (6, 7))
    term(a, b).backward()
    assert a.grad is not None and b.grad is None
    assert not any(parameter.requires_grad for parameter in term.parameters())


def test_inputs_are_not_written_to(path):
    a, b = pictures(1, 16, 16, seed=8), pictures(1, 16, 16, seed=9)
    kept = a.clone(), b.clone()
    read_vgg(path)(a, b)
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])


def test_a_network_read_in_inference_mode_still_passes_gradients(path):
    with torch.inference_mode():  # where the host runs its nodes
        term = read_vgg(path)
    picture = pictures(1, 16, 16, seed=1).requires_grad_(True)
    term(picture, pictures(1, 16, 16, seed=2)).backward()
    assert picture.grad.abs().sum() > 0


def test_half_precision_and_a_prefix_are_read(tmp_path, vgg):
    plain, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    halves = {key: value.half() for key, value in state_of(vgg).items()}
    safetensors.torch.save_file({k: v.float() for k, v in halves.items()}, plain)
    safetensors.torch.save_file({f"net.vgg.{k}": v for k, v in halves.items()}, other)
    a, b = pictures(1, 16, 16, seed=1), pictures(1, 16, 16, seed=2)
    assert read_vgg(other)(a, b) == read_vgg(plain)(a, b) > 0


def test_it_moves(path):
    moved = read_vgg(path).to("meta")
    assert all(tensor.device.type == "meta" for tensor in moved.state_dict().values())


@pytest.mark.parametrize("size", [(15, 64), (64, 15)])
def test_pictures_too_small_for_the_fifth_scale_are_refused(path, size):
    with pytest.raises(CraftError, match="at least 16 x 16"):
        read_vgg(path)(pictures(1, *size, seed=1), pictures(1, *size, seed=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.28.bias"), "lacks features.28.bias"),
        (lambda s: s.pop("features.0.weight"), "no keys that end in features.0.weight"),
        (lambda s: s.update({"x.features.0.weight": torch.zeros(1)}), "2 different keys"),
        (lambda s: s.update({"features.5.weight": torch.zeros(128, 64, 1, 1)}), r"\[128, 64, 1, 1"),
    ],
    ids=["missing", "none", "ambiguous", "shape"],
)
def test_a_file_of_another_network_is_refused(tmp_path, vgg, change, message):
    state = state_of(vgg)
    change(state)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(CraftError, match=message) as caught:
        read_vgg(path)
    assert "perceptual_weight" in caught.value.action


def test_what_is_no_safetensors_file_is_refused(tmp_path, vgg):
    pickled = tmp_path / "vgg19.safetensors"
    torch.save(state_of(vgg), pickled)
    with pytest.raises(CraftError, match="cannot be read"):
        read_vgg(pickled)
    with pytest.raises(CraftError, match="There is no file"):
        read_vgg(tmp_path / "absent.safetensors")


def test_relu_maps_are_not_negative_and_shrink_by_halves(path):
    maps = list(read_vgg(path)._maps(pictures(1, 32, 48, seed=1)))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3),
    ]  # fmt: skip
    assert all(torch.equal(one, functional.relu(one)) for one in maps)
