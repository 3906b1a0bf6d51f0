"""The expert encoder: neutral before training, never negative, and the same from its file."""

import json

import pytest
import safetensors.torch
import torch

from craft_core.encoder import (
    Concept,
    ExpertEncoder,
    PhraseEmbeddings,
    read_encoder,
    scale_table,
    write_encoder,
)
from craft_core.encoder import file as encoder_file
from craft_core.encoder.network import UNKNOWN, parameter_shapes
from craft_core.errors import CraftError
from craft_core.fusion import FUSION, compose
from craft_core.lora import pair_statistics
from craft_core.routing import parse, phrase_text
from craft_core.schedule import Schedule
from craft_core.types import Bank, Branch, Factors, Moment, Routing

WIDTH = 24
LAYERS = {"content": ("a", "b"), "style": ("b", "c", "d")}
PAIR = Concept.of([("content", "11"), ("style", "22")])
OTHER = Concept.of([("content", "11"), ("style", "33")])
MOMENTS = [Moment(i / 4, 5) for i in range(5)]


def encoder(seed=0, trained=True):
    made = ExpertEncoder(LAYERS, WIDTH, [PAIR, OTHER], seed)
    if trained:
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in made.head.parameters():
                parameter.normal_(0.0, 3.0, generator=generator)
    return made


def phrase(seed, size=1.0):
    return size * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def bank(content="ab", style="bcd", strengths=(1.0, 1.0)):
    factors = (Factors(torch.zeros(1, 1), torch.zeros(1, 1)),)
    branches = [
        Branch("dog", "content", dict.fromkeys(content, factors), strengths[0]),
        Branch("ink", "style", dict.fromkeys(style, factors), strengths[1]),
    ]
    return Bank.of(branches, "abcde")


def full_routing(b):
    sets = tuple(frozenset(one.layers) for one in b.branches)
    return Routing((1.0, 1.0), sets, pair_statistics(b.branches, b.layers))


def test_every_scale_is_exactly_one_before_training_whatever_is_asked():
    for seed in range(3):
        fresh = encoder(seed, trained=False)
        for size in (0.0, 1e-6, 1.0, 1e4):
            rows = torch.tensor([UNKNOWN, 0, 1])
            content, style = (torch.stack([phrase(s, size)] * 3) for s in (seed, seed + 9))
            scales = fresh(rows, content, style)
            assert torch.equal(scales, torch.ones(3, 5))


@pytest.mark.parametrize("method", FUSION.keys())
@pytest.mark.parametrize("schedule", [None, Schedule("cosine")])
def test_a_neutral_encoder_leaves_the_gates_of_every_method_bitwise_as_they_are(method, schedule):
    b = bank(strengths=(0.7, 1.3))
    chosen = FUSION[method]
    gates = chosen.function(b, full_routing(b), **chosen.knobs({}))
    neutral = scale_table(encoder(trained=False).scales(PAIR, PhraseEmbeddings(phrase(1))), b)
    for moment in MOMENTS:
        plain = compose(gates, b, schedule).at(moment)
        assert torch.equal(compose(gates, b, schedule, neutral).at(moment), plain)


def test_each_factor_of_the_gates_is_applied_once():
    b = bank(strengths=(0.5, 2.0))
    scales = {"content": {"a": 3.0, "b": 0.0}, "style": {"b": 1.0, "c": 5.0, "d": 7.0}}
    routing = Routing((0.25, 1.0), full_routing(b).layer_sets)
    gates = compose(
        FUSION["craft"].function(b, routing), b, Schedule("cosine"), scale_table(scales, b)
    )
    expected = [[0.25 * 0.5 * 3.0, 0.0], [0.0, 2.0 * 1.0], [0.0, 2.0 * 5.0], [0.0, 2.0 * 7.0]]
    a_content = a_style = 0.5  # the cosine halfway
    by_hand = torch.tensor(expected) * torch.tensor([a_content, a_style])
    torch.testing.assert_close(gates.at(Moment(0.5, 3))[0], by_hand)


def test_scales_are_never_negative():
    for seed in range(20):
        made = encoder(seed)
        rows = torch.tensor([UNKNOWN, 0, 1])
        content, style = (torch.stack([phrase(s)] * 3) for s in (seed, seed + 100))
        scales = made(rows, content, style)
        assert scales.shape == (3, 5) and bool((scales >= 0).all())
        assert bool((scales < 0.9).any()) and bool((scales > 1.1).any())


def test_rows_of_a_batch_do_not_touch_each_other():
    made = encoder()
    content = torch.stack([phrase(s) for s in range(3)])
    style = torch.stack([phrase(s) for s in range(3, 6)])
    rows = torch.tensor([0, UNKNOWN, 1])
    together = made(rows, content, style)
    for i in range(3):
        alone = made(rows[i : i + 1], content[i : i + 1], style[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_a_missing_phrase_is_a_zero_embedding_and_an_unknown_pair_a_zero_concept():
    made = encoder()
    zeros = torch.zeros(WIDTH)
    assert made.scales(PAIR, PhraseEmbeddings(phrase(1))) == made.scales(
        PAIR, PhraseEmbeddings(phrase(1), zeros)
    )
    unknown = Concept.of([("content", "99"), ("style", "22")])
    assert made.row(unknown) == UNKNOWN
    with torch.no_grad():
        made.table[:] = 0.0
    assert made.scales(unknown, PhraseEmbeddings(phrase(1))) == made.scales(
        PAIR, PhraseEmbeddings(phrase(1))
    )


def test_what_is_asked_changes_the_scales():
    made = encoder()
    base = made.scales(PAIR, PhraseEmbeddings(phrase(1), phrase(2)))
    others = [
        made.scales(OTHER, PhraseEmbeddings(phrase(1), phrase(2))),
        made.scales(PAIR, PhraseEmbeddings(phrase(3), phrase(2))),
        made.scales(PAIR, PhraseEmbeddings(phrase(1), phrase(3))),
        made.scales(PAIR, PhraseEmbeddings(phrase(1))),
    ]
    assert all(other != base for other in others)


def test_the_size_of_a_text_encoders_numbers_does_not_matter():
    made = encoder()
    small, large = (made.scales(PAIR, PhraseEmbeddings(phrase(1, size))) for size in (0.01, 100.0))
    for role in LAYERS:
        assert list(small[role].values()) == pytest.approx(list(large[role].values()), rel=1e-3)


def test_a_concept_is_its_files_in_no_order():
    one = Concept.of([("content", "b"), ("style", "c"), ("content", "a")])
    assert one == Concept.of([("content", "a"), ("content", "b"), ("style", "c")])
    assert one != Concept.of([("content", "a"), ("style", "b"), ("content", "c")])


def test_several_phrases_of_a_role_are_read_as_a_list():
    marked = parse("<c>a dog</c> and <c>a cat</c> in <s>ink</s>")
    assert phrase_text(marked, "content") == "a dog, a cat"
    assert phrase_text(marked, "style") == "ink"
    assert phrase_text(parse("a dog"), "content") == ""


def test_an_encoder_leaves_torchs_random_state_alone_and_its_seed_decides():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (encoder(seed, trained=False).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["content.0.weight"], other["content.0.weight"])


def test_the_table_follows_the_banks_order_and_is_one_where_a_branch_has_no_layer():
    scales = encoder().scales(PAIR, PhraseEmbeddings(phrase(1), phrase(2)))
    table = scale_table(scales, bank())
    own, style = scales["content"], scales["style"]
    expected = [[own["a"], 1.0], [own["b"], style["b"]], [1.0, style["c"]], [1.0, style["d"]]]
    assert torch.equal(table, torch.tensor(expected))


def test_fewer_layers_than_the_encoders_are_fine_and_others_an_error():
    scales = encoder().scales(PAIR, PhraseEmbeddings())
    assert scale_table(scales, bank("a", "d")).shape == (2, 2)
    with pytest.raises(CraftError, match="dog acts on 1 layers .of 2. .* no scale for: e"):
        scale_table(scales, bank("ae", "d"))


def test_a_phrase_of_another_text_encoder_is_an_error():
    with pytest.raises(CraftError, match="describes a phrase by 25 numbers"):
        encoder().scales(PAIR, PhraseEmbeddings(torch.zeros(WIDTH + 1)))


def test_a_file_gives_the_encoder_back_bitwise_and_the_same_one_gives_the_same_bytes(tmp_path):
    made, path = encoder(), tmp_path / "one.safetensors"
    write_encoder(path, made, {"note": "mine"})
    back, further = read_encoder(path)
    assert further == {"note": "mine"}
    assert back.layers == made.layers and back.concepts == made.concepts
    own, expected = made.state_dict(), back.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    asked = PhraseEmbeddings(phrase(1), phrase(2))
    assert back.scales(OTHER, asked) == made.scales(OTHER, asked)
    again = tmp_path / "two.safetensors"
    write_encoder(again, back, further)
    assert again.read_bytes() == path.read_bytes()


def _rewritten(path, change):
    """The file with its tensors and metadata changed by `change(tensors, metadata)`."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors = safetensors.torch.load_file(path)
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)


def _short_layers(tensors, metadata):
    metadata["layers"] = json.dumps({"content": ["a"], "style": ["b"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.pop("format"), "no expert encoder file"),
        (lambda t, m: m.update(format="craft-basis"), "no expert encoder file"),
        (lambda t, m: m.update(format_version="9"), "format version 9"),
        (lambda t, m: m.update(layers="{"), "layers and concepts"),
        (lambda t, m: m.update(layers='{"content": [], "style": []}'), "scales no layers"),
        (lambda t, m: m.update(concepts='[{"content": []}]'), "layers and concepts"),
        (lambda t, m: m.update(text_width="wide"), "layers and concepts"),
        (lambda t, m: t.pop("head.bias"), "its tensors are not"),
        (lambda t, m: t.update(more=torch.zeros(1)), "its tensors are not"),
        (lambda t, m: t["head.bias"].fill_(torch.nan), "NaN"),
        (_short_layers, "its tensors are not"),
    ],
)
def test_another_or_a_damaged_file_is_refused(tmp_path, change, message):
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, encoder())
    _rewritten(path, change)
    with pytest.raises(CraftError, match=message):
        read_encoder(path)


def test_what_is_no_file_or_no_safetensors_is_refused(tmp_path):
    with pytest.raises(CraftError, match="no file"):
        read_encoder(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(CraftError, match="damaged"):
        read_encoder(broken)


def test_an_encoder_with_broken_numbers_is_not_saved(tmp_path):
    made = encoder()
    with torch.no_grad():
        made.head.bias[0] = torch.inf
    with pytest.raises(CraftError, match="NaN or infinity"):
        write_encoder(tmp_path / "encoder.safetensors", made)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("concepts", [[], [PAIR, OTHER]])
def test_the_shapes_are_known_before_an_encoder_is_made(concepts):
    made = ExpertEncoder(LAYERS, WIDTH, concepts)
    shapes = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    assert parameter_shapes(5, WIDTH, len(concepts)) == shapes


def test_a_file_that_claims_a_larger_encoder_than_it_holds_makes_none(tmp_path, monkeypatch):
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, encoder())
    _rewritten(path, lambda tensors, metadata: metadata.update(text_width=str(1 << 40)))
    monkeypatch.setattr(encoder_file, "ExpertEncoder", None)
    with pytest.raises(CraftError, match="its tensors are not"):
        read_encoder(path)
