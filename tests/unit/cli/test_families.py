"""The table of families, which the README shows unchanged."""

from craft_lora_pack.cli.families import family_table
from craft_lora_pack.cli.main import main
from craft_lora_pack.craft_core.families import FAMILIES

from launcher.paths import ROOT

BEGIN = "<!-- python -m craft_core families --markdown -->\n"
END = "\n<!-- end of families -->"


def test_the_readmes_table_is_made_from_the_registry():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.split(BEGIN)[1].split(END)[0] == family_table()


def test_the_command_names_every_family_and_the_source_of_its_layer_sets(capsys):
    assert main(["families"]) == 0
    printed = capsys.readouterr().out
    for family in FAMILIES.values():
        assert family.label in printed
        assert all(preset.source in printed for preset in family.presets)
