"""The axes of a grid: every kind is read, a mistake is named with its line, a preset reads back."""

import pytest

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.guidance import GUIDANCE
from craft_core.presets import node_values
from craft_core.routing.presets import PRESETS
from craft_core.schedule import SHAPES
from craft_core.schedule.schedule import Schedule
from craft_core.search import KINDS, MOST_CELLS, GridSetting, axis_of, grid_of

PRESET_KEYS = tuple(PRESETS)
BASE = GridSetting(FUSION["direct"], {}, "all", 1.0, 0.5, None, "cfg", {}, 3.0, 7)
SAMPLES = {
    "method": "method: craft, direct\nk_lora: pattern = s*\ndirect: guidance = role, weight = 1.5",
    "content_strength": "content_strength: 0.6, 0.8\n1",
    "style_strength": "style_strength: -0.5, 2",
    "strength": "strength:\n0.5\n1",
    "guidance": "guidance: acfg, cfg\nrole: weight = 1.5",
    "cfg": "cfg: 1, 2.5",
    "schedule": "schedule: " + ", ".join(SHAPES.keys()) + "\ncosine: content_floor = 0.5",
    "layer_sets": "layer_sets: " + ", ".join(PRESET_KEYS),
    "seed": "seed: 0, 7, 9007199254740991",
}


def grid(x, y=""):
    return grid_of(x, y, PRESET_KEYS)


def test_there_is_a_sample_of_every_kind():
    assert set(SAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_of_every_kind_is_a_preset_that_the_nodes_take(kind):
    cells = grid(SAMPLES[kind]).cells(BASE)
    found = []
    for cell in cells:
        preset = cell.setting.as_preset()
        values = node_values(preset)
        assert values.router["method"] == cell.setting.method.key
        assert values.router["content_strength"] == cell.setting.content_strength
        assert values.guidance["cfg"] == cell.setting.cfg
        assert values.sampler == {"seed": cell.setting.seed}
        found.append(str(preset))
    assert len(cells) >= 2 and len(set(found)) >= len(cells) - (kind == "schedule")


def test_a_cell_is_the_base_with_what_its_row_and_column_set():
    made = grid("strength: 0.5, 0.7", "method\ncraft\ndirect: guidance = role, weight = 1.5")
    cells = made.cells(BASE)
    assert [(cell.row, cell.column) for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    last = cells[-1].setting
    assert (last.content_strength, last.style_strength) == (0.7, 0.7)
    assert (last.guidance, last.weights) == ("role", {"weight": 1.5})
    assert (last.cfg, last.seed) == (BASE.cfg, BASE.seed)
    assert cells[0].setting.guidance == BASE.guidance
    assert [value.label for value in made.rows] == [
        "craft",
        "direct\nguidance = role\nweight = 1.5",
    ]


def test_without_rows_there_is_one_row():
    assert [cell.setting.seed for cell in grid("seed: 3, 4").cells(BASE)] == [3, 4]


def test_a_schedule_of_the_node_goes_into_the_preset_with_all_its_settings():
    schedule = Schedule("cosine", {}, 0.25, 0.5, "model")
    cell = GridSetting(**{**vars(BASE), "schedule": schedule}).as_preset()
    values = node_values(cell).schedule
    assert (values["shape"], values["content_floor"], values["clock"]) == ("cosine", 0.25, "model")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x_axis has no value"),
        ("cfg:", "x_axis has no value"),
        ("colour: 1", "x_axis, line 1: 'colour' is nothing that an axis can set"),
        ("# cfg\ncfg: 1\nx", "x_axis, line 3: cfg = 'x'"),
        ("cfg: 1, nan", "x_axis, line 1: cfg = 'nan'"),
        ("cfg: 1\n1.0", "x_axis, line 2: '1.0' is there already"),
        ("strength: 11", "x_axis, line 1: strength = '11'"),
        ("seed: -1", "x_axis, line 1: seed = '-1'"),
        ("seed: 9007199254740992", "x_axis, line 1: seed"),
        ("method\ncraft\nnothing", "x_axis, line 3: 'nothing'"),
        ("method\nk_lora: pattern = q", "x_axis, line 2: k_lora: pattern"),
        ("guidance: role: wait = 1", "x_axis, line 1: "),
        ("schedule: window: nothing = 1", "x_axis, line 1: window has no setting 'nothing'"),
        ("schedule: cosine: content_floor = 2", "x_axis, line 1: content_floor = '2'"),
        ("schedule: cosine: clock = sun", "x_axis, line 1: 'sun' is no clock"),
        ("layer_sets: nothing", "x_axis, line 1: layer_sets = nothing"),
    ],
)
def test_a_mistake_is_named_with_its_line(text, said):
    with pytest.raises(CraftError) as error:
        grid(text)
    assert error.value.given.startswith(said)


def test_every_rule_and_every_method_can_be_on_an_axis():
    assert len(axis_of("method\n" + "\n".join(FUSION.keys()), "x", ())) == len(FUSION.keys())
    assert len(axis_of("guidance\n" + "\n".join(GUIDANCE.keys()), "x", ())) == len(GUIDANCE.keys())


@pytest.mark.parametrize(
    ("x", "y", "both"),
    [
        ("strength: 1", "content_strength: 1", "content_strength"),
        ("cfg: 1", "cfg: 2", "cfg"),
        ("guidance: cfg", "method: direct: guidance = acfg", "guidance"),
        ("layer_sets: all", "method: craft: layer_sets = b-lora", "layer_sets"),
    ],
)
def test_axes_that_set_the_same_are_refused(x, y, both):
    with pytest.raises(CraftError, match=f"both set {both}"):
        grid(x, y)


def test_the_number_of_cells_is_bounded():
    seeds = ", ".join(map(str, range(17)))
    with pytest.raises(CraftError, match="289 cells") as error:
        grid(f"seed: {seeds}", f"cfg: {seeds}")
    assert str(MOST_CELLS) in error.value.possible
    with pytest.raises(CraftError, match="more than"):
        grid("seed: " + ", ".join(map(str, range(1000))))
