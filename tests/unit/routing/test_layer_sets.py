"""Layer sets: presets, free text, matching by component, disjointness."""

import pytest
from unet_layers import sd1_layers, sdxl_layers

from craft_core.errors import CraftError
from craft_core.routing import (
    PRESETS,
    latent_resolutions,
    parse_layer_sets,
    resolve,
    split_by_energy,
)
from craft_core.routing.layer_sets import of_one_role, patterns_of_role
from craft_core.routing.presets import OF_MODEL
from craft_core.types import ROLES, Branch

SD1, SDXL = sd1_layers(), sdxl_layers()
DIT = {
    f"{kind}_blocks.{i}.{name}": (64, 64)
    for kind, count in (("double", 19), ("single", 38))
    for i in range(count)
    for name in ("img_attn.qkv", "mlp.0")
}
PATTERN_PRESETS = [key for key, preset in PRESETS.items() if preset.rule == "patterns"]
OF_UNETS = ("craft-paper", "craft-release", "b-lora")
SOUND = {
    f"transformer_blocks.0.{part}.to_q": (8, 8)
    for part in ("attn1", "audio_attn1", "audio_to_video_attn", "video_to_audio_attn")
} | {"proj_out": (8, 8), "audio_proj_out": (8, 8)}


def below(layers, *prefixes):
    return {p for p in layers if any(p.startswith(f"{prefix}.") for prefix in prefixes)}


def test_b_loras_two_blocks_on_sdxl():
    sets = resolve("b-lora", SDXL)
    assert sets.content == below(SDXL, "output_blocks.0.1")
    assert sets.style == below(SDXL, "output_blocks.1.1")
    assert sets.unmatched == ()
    assert len(sets.content) == len(sets.style) == 102  # 10 transformer blocks, proj_in, proj_out


def test_the_papers_table_on_sdxl_reports_the_two_blocks_it_lacks():
    sets = resolve("craft-paper", SDXL)
    assert sets.unmatched == (
        "content: up_blocks.2.attentions.0",
        "style: down_blocks.0.attentions.0",
    )
    content = ("input_blocks.7.1", "middle_block.1", "output_blocks.1.1", "output_blocks.3.1")
    style = ("input_blocks.4.0", "middle_block.2", "input_blocks.2.0", "input_blocks.5.1")
    assert sets.content == below(SDXL, *content)
    assert sets.style == below(SDXL, *style)


def test_the_papers_table_on_sd1_reports_the_one_block_it_lacks():
    sets = resolve("craft-paper", SD1)
    assert sets.unmatched == ("content: up_blocks.0.attentions.1",)
    assert below(SD1, "input_blocks.1.1") <= sets.style
    assert below(SD1, "output_blocks.6.1") <= sets.content


def test_the_releases_blocks_on_sdxl():
    sets = resolve("craft-release", SDXL)
    first = [f"input_blocks.{i}" for i in range(1, 7)]
    assert sets.content == below(SDXL, *first, "middle_block", "output_blocks.0.1")
    late = [f"output_blocks.{i}" for i in range(3, 9)]
    assert sets.style == below(SDXL, *late, "output_blocks.1.1")
    assert sets.unmatched == ()


@pytest.mark.parametrize("layers", [SD1, SDXL], ids=["sd1", "sdxl"])
@pytest.mark.parametrize("key", [*OF_UNETS, "duolora-prior"])
def test_every_preset_splits_into_disjoint_layers_of_the_model_or_says_why_not(key, layers):
    if key == "b-lora" and layers is SD1:
        with pytest.raises(CraftError, match="No content pattern.* up_blocks.1.attentions.0 to"):
            resolve(key, layers)
        return
    sets = resolve(key, layers)
    assert sets.content and sets.style and not sets.overlap
    assert sets.content | sets.style <= set(layers)


@pytest.mark.parametrize("layers", [SD1, SDXL, DIT], ids=["sd1", "sdxl", "dit"])
def test_all_restricts_nothing(layers):
    sets = resolve("all", layers)
    assert sets.content == sets.style == sets.overlap == set(layers)


def test_every_preset_names_its_source():
    assert all(preset.source and preset.label for preset in PRESETS.values())
    assert list(PRESETS) == [preset.key for preset in PRESETS.values()]
    assert set(PRESETS) - set(OF_MODEL) == {"auto"}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_has_patterns_of_its_own_or_a_rule(preset):
    assert bool(preset.content or preset.style) == (preset.rule == "patterns")
    expected = [f"{role}: {one}" for role in ("content", "style") for one in getattr(preset, role)]
    assert preset.text.splitlines() == expected


@pytest.mark.parametrize("key", PATTERN_PRESETS)
def test_a_presets_text_edited_by_nobody_is_the_preset(key):
    assert parse_layer_sets(PRESETS[key].text) == parse_layer_sets(f"  {key}\n")


@pytest.mark.parametrize(
    ("key", "layers"),
    [(key, SDXL) for key in (*OF_UNETS, "duolora-prior", "all")]
    + [("craft-paper", SD1), ("duolora-prior", SD1)]
    + [("splitflux", DIT), ("b-lora-flux", DIT), ("video-audio", SOUND)],
)
def test_a_roles_part_of_a_preset_as_patterns_claims_the_same_layers_and_nothing_in_vain(
    key, layers
):
    whole = resolve(key, layers)
    for role, claimed in zip(ROLES, whole.of(ROLES), strict=True):
        alone = resolve(of_one_role(patterns_of_role(key, role, layers), role), layers)
        assert alone.of([role])[0] == claimed and alone.unmatched == ()


def test_fluxs_presets_are_the_published_ranges():
    split, early_late = resolve("splitflux", DIT), resolve("b-lora-flux", DIT)
    single = [f"single_blocks.{i}" for i in range(38)]
    assert split.content == below(DIT, *single[:10]) and split.style == below(DIT, *single[10:])
    assert early_late.content == below(DIT, *(f"double_blocks.{i}" for i in range(6)))
    assert early_late.style == below(DIT, *single[30:])
    assert split.unmatched == early_late.unmatched == ()


def test_sound_and_picture_are_layer_sets_of_their_own():
    sets = resolve("video-audio", SOUND)
    assert sets.content | sets.style == set(SOUND) and len(sets.content) == len(sets.style)
    assert all("audio_attn1" in p or "to_audio" in p or "audio_proj" in p for p in sets.style)


def test_a_roles_part_of_written_patterns_is_its_lines():
    text = "content: mid_block\nstyle: output_blocks.8\ncontent: input_blocks.7..8"
    assert patterns_of_role(text, "content", SDXL) == "mid_block\ninput_blocks.7..8"
    assert patterns_of_role(text, "style", SDXL) == "output_blocks.8"


def test_names_match_by_component_never_by_substring():
    layers = {
        f"double_blocks.{i}.{n}": (8, 8) for i in (1, 10, 11) for n in ("img_attn.qkv", "img")
    }
    sets = resolve("content: double_blocks.1\nstyle: double_blocks.10", layers)
    assert sets.content == {"double_blocks.1.img_attn.qkv", "double_blocks.1.img"}
    assert sets.style == {"double_blocks.10.img_attn.qkv", "double_blocks.10.img"}
    assert resolve("content: double_blocks.1.img", layers).content == {"double_blocks.1.img"}
    assert resolve("content: double_blocks.1\nstyle: blocks.10", layers | {"blocks.10": (8, 8)})
    with pytest.raises(CraftError, match="No content pattern"):
        resolve("content: double_block", layers)


def test_a_name_is_its_beginning_and_not_its_middle():
    with pytest.raises(CraftError, match="No style pattern"):
        resolve("style: img_attn", DIT)


def test_a_star_stands_for_one_component():
    assert resolve("content: *.3", DIT).content == {p for p in DIT if p.split(".")[1] == "3"}
    with pytest.raises(CraftError, match="both content and style"):
        resolve("content: *.3\nstyle: single_blocks.*.mlp", DIT)
    style = resolve("style: single_blocks.*.mlp", DIT).style
    assert style == {f"single_blocks.{i}.mlp.0" for i in range(38)}
    attentions = resolve("content: down_blocks.*.attentions", SDXL).content
    assert attentions == below(SDXL, *(f"input_blocks.{i}.1" for i in (4, 5, 7, 8)))


def blocks(kind, numbers, names=("img_attn.qkv", "mlp.0")):
    return {f"{kind}_blocks.{i}.{name}" for i in numbers for name in names}


def test_a_range_is_the_lines_of_its_numbers():
    for pattern, first, last in (("double_blocks.{}", 0, 9), ("single_blocks.{}.mlp", 7, 7),
                                 ("double_blocks.{}.img_attn", 15, 18)):  # fmt: skip
        lines = [f"style: {pattern.format(i)}" for i in range(first, last + 1)]
        one = resolve(f"style: {pattern.format(f'{first}..{last}')}", DIT)
        assert one == resolve("\n".join(lines), DIT) and one.style
    assert resolve("style: double_blocks.0..9", DIT).style == blocks("double", range(10))


def test_ranges_stand_beside_stars_in_both_namings_and_more_than_once():
    assert resolve("content: *.3..4.mlp", DIT).content == (
        blocks("double", (3, 4), ["mlp.0"]) | blocks("single", (3, 4), ["mlp.0"])
    )
    by_range = resolve("content: down_blocks.1..2.attentions.0..1", SDXL)
    assert by_range == resolve("content: down_blocks.*.attentions", SDXL)
    assert by_range.content == resolve("content: input_blocks.4..8.1", SDXL).content
    layers = {f"b.{i}": (8, 8) for i in (1, 2, 10, 12, 100)} | {"b.1x": (8, 8), "b.x": (8, 8)}
    assert resolve("content: b.2..12", layers).content == {"b.2", "b.10", "b.12"}
    assert resolve("content: b.002..0012", layers).content == {"b.2", "b.10", "b.12"}


def test_what_a_range_names_beyond_the_model_is_reported():
    """A block that lacks the rest of the pattern is none: blocks 6 and 3 have no attention."""
    sets = resolve("content: double_blocks.17..25\nstyle: single_blocks.0..37", DIT)
    assert sets.content == blocks("double", (17, 18))
    assert sets.unmatched == ("content: double_blocks.19..25",)
    assert resolve("content: input_blocks.3..8.1", SDXL).unmatched == ()
    layers = {f"b.{i}.c.{j}": (8, 8) for i in (2, 3, 7) for j in (0, 1)}
    sets = resolve("content: b.0..9.c.1..2\nstyle: b.2.c.0", layers)
    assert sets.unmatched == (
        "content: b.0..1.c.1..2",
        "content: b.4..6.c.1..2",
        "content: b.8..9.c.1..2",
        "content: b.0..9.c.2",
    )
    with pytest.raises(CraftError, match=r"No style pattern .*double_blocks\.19\.\.9999"):
        resolve("content: single_blocks\nstyle: double_blocks.19..9999", DIT)


@pytest.mark.parametrize(
    ("component", "fault"),
    [
        ("9..0", "a range counts up: 0..9"),
        ("0..10000", "up to 4 digits"),
        (f"0..{'9' * 100_000}", "up to 4 digits"),
        (f"{'0' * 100_000}..1", "up to 4 digits"),
        ("a..b", "only for numbers"),
        ("0..b", "only for numbers"),
        ("-1..3", "only for numbers"),
        ("0..", "only for numbers"),
        ("..9", "only for numbers"),
        ("0...9", "only for numbers"),
        ("0..1..2", "only for numbers"),
        ("*..9", "only for numbers"),
        ("0..9*", "only for numbers"),
        ("0.. 9", "only for numbers"),
        ("1.5..2", "a range counts up: 2..5"),
    ],
)
def test_a_range_that_is_none_is_refused_with_the_reason(component, fault):
    with pytest.raises(CraftError, match=rf"Line 2 .*double_blocks\.0\.\.9.*{fault}") as error:
        parse_layer_sets(f"style: mid_block\ncontent: b.{component}")
    assert len(str(error.value)) < 1000


def test_no_text_decides_how_long_it_is_matched():
    """Matching looks at each name of the model once a pattern, and there are only so many."""
    with pytest.raises(CraftError, match=r"100000 patterns.*1000.*range"):
        parse_layer_sets("style: single_blocks.0..9999\n" * 100_000)
    text = "content: double_blocks.0..9999\nstyle: " + ".".join(["0..9999"] * 50_000)
    spec = parse_layer_sets(text)
    layers = {"double_blocks.0": (8, 8), "b." + "9" * 5000: (8, 8)}
    with pytest.raises(CraftError, match="No style pattern"):
        resolve(spec, layers)


def test_ldm_and_diffusers_names_mean_the_same_layers():
    pairs = [
        ("down_blocks.1.attentions.0", "input_blocks.4.1"),
        ("mid_block", "middle_block"),
        ("up_blocks.0.upsamplers", "output_blocks.2.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("up_blocks.1.resnets.2.conv1", "output_blocks.5.0.in_layers.2"),
        ("conv_in", "input_blocks.0.0"),
        (
            "mid_block.attentions.0.transformer_blocks.9.ff",
            "middle_block.1.transformer_blocks.9.ff",
        ),
    ]
    for diffusers, ldm in pairs:
        first, second = (resolve(f"style: {name}", SDXL) for name in (diffusers, ldm))
        assert first == second and first.style


def test_text_is_read_with_comments_blanks_and_any_case_of_the_role():
    spec = parse_layer_sets(
        "# two blocks\n\n  Content :  up_blocks.0.attentions.0 # why\r\n"
        "STYLE:mid_block\n style: a.b-c"
    )
    assert spec.rule == "patterns"
    assert spec.content == ("up_blocks.0.attentions.0",)
    assert spec.style == ("mid_block", "a.b-c")


@pytest.mark.parametrize(
    "line",
    [
        "up_blocks.0",
        "contents: up_blocks.0",
        "content up_blocks.0",
        "content:",
        "content: up_blocks..0",
        "content: up_blocks.0.",
        "content: .up_blocks",
        "content: up_blocks.1*",
        "content: **",
        "content: up_blocks.0, up_blocks.1",
        "content: up blocks",
        "style: up_blocks.0: 1",
        "craft-papers",
    ],
)
def test_a_line_that_is_no_pattern_is_named_with_its_number(line):
    with pytest.raises(CraftError, match=r"Line 2 .*craft-paper"):
        parse_layer_sets(f"style: mid_block\n{line}")


@pytest.mark.parametrize("text", ["", "  \n", "# nothing"])
def test_text_without_patterns_is_an_error(text):
    with pytest.raises(CraftError, match="name no layers"):
        parse_layer_sets(text)


def test_a_pattern_that_matches_nothing_is_reported_and_a_role_without_any_match_is_an_error():
    sets = resolve("content: mid_block\ncontent: mid_blok\nstyle: up_blocks.0", SDXL)
    assert sets.unmatched == ("content: mid_blok",)
    with pytest.raises(CraftError, match=r"No style pattern matches .*up_blok"):
        resolve("content: mid_block\nstyle: up_blok", SDXL)


@pytest.mark.parametrize("key", [*OF_UNETS, "duolora-prior"])
def test_a_unet_preset_on_another_architecture_is_an_error_with_a_way_out(key):
    with pytest.raises(CraftError, match="auto"):
        resolve(key, DIT)


def test_the_error_shows_what_the_model_has():
    with pytest.raises(
        CraftError, match=r"It has double_blocks\.0 to double_blocks\.18, single_blocks"
    ):
        resolve("content: up_blocks.0", DIT)
    with pytest.raises(
        CraftError, match=r" down_blocks\.1\.attentions\.0 to down_blocks\.2\.attentions\.1, "
    ):
        resolve("content: double_blocks.0", SDXL)


def test_layers_claimed_by_both_roles_are_an_error_that_names_them():
    with pytest.raises(
        CraftError, match=r"10 layers .*middle_block\.1\.transformer_blocks\.3\.attn1"
    ):
        resolve("content: mid_block\nstyle: middle_block.1.transformer_blocks.3", SDXL)


def test_a_pattern_longer_than_a_name_does_not_match_it():
    sets = resolve("content: conv_in\ncontent: conv_in.weight\ncontent: conv_in.*", SDXL)
    assert sets.content == {"input_blocks.0.0"}
    assert sets.unmatched == ("content: conv_in.weight", "content: conv_in.*")


def test_a_role_without_a_line_acts_nowhere():
    sets = resolve("content: mid_block", SDXL)
    assert sets.content and sets.style == frozenset()


def test_sets_are_handed_out_by_branch():
    sets = resolve("b-lora", SDXL)
    assert sets.of(["style", "content", "style"]) == (sets.style, sets.content, sets.style)


def test_resolutions_follow_the_structure():
    sd1, sdxl = latent_resolutions(SD1, 64), latent_resolutions(SDXL, 128)
    assert {p: sd1[p] for p in ("input_blocks.0.0", "input_blocks.3.0.op", "out.2")} == {
        "input_blocks.0.0": 64,
        "input_blocks.3.0.op": 64,
        "out.2": 64,
    }
    assert sd1["input_blocks.4.1.proj_in"] == 32 and sd1["input_blocks.11.0.in_layers.2"] == 8
    assert sd1["middle_block.1.proj_in"] == 8 and sd1["output_blocks.2.1.conv"] == 8
    assert sd1["output_blocks.3.1.proj_in"] == 16 and sd1["output_blocks.11.1.proj_in"] == 64
    assert sdxl["middle_block.0.in_layers.2"] == 32 == sdxl["output_blocks.0.1.proj_in"]
    assert sdxl["output_blocks.3.1.proj_in"] == 64 and sdxl["output_blocks.8.0.in_layers.2"] == 128
    assert not any(p.startswith(("time_embed", "label_emb")) for p in sdxl)
    assert len(sdxl) == len(SDXL) - 4 and set(latent_resolutions(SDXL, 77).values()) == {77, 39, 20}


def test_duoloras_named_blocks_fall_on_its_sides():
    sets = resolve("duolora-prior", SDXL)
    named = resolve("content: down_blocks.2\ncontent: mid_block\nstyle: down_blocks.1", SDXL)
    assert named.content <= sets.content and named.style <= sets.style
    assert "output_blocks.0.1.proj_in" in sets.content and "output_blocks.3.1.proj_in" in sets.style


def test_a_latent_size_that_leaves_a_role_without_layers_is_an_error():
    with pytest.raises(CraftError, match="32, 64, 128: no content layers"):
        resolve("duolora-prior", SDXL, latent_size=128)
    with pytest.raises(CraftError, match="no style layers"):
        resolve("duolora-prior", SDXL, latent_size=31)


def test_auto_needs_a_branch():
    with pytest.raises(CraftError, match="auto was given no LoRA"):
        resolve("auto", SDXL)
    with pytest.raises(CraftError, match="auto was given no LoRA"):
        split_by_energy([], SDXL)
    assert split_by_energy([Branch("empty", "content", {})], SDXL) == (frozenset(), frozenset())
