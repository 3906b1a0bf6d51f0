"""The table of methods, which the README shows unchanged."""

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.methods import FAMILIES, method_table

from launcher.paths import ROOT

BEGIN = "<!-- python -m craft_core methods --markdown -->\n"
END = "\n<!-- end of methods -->"


def test_the_readmes_table_is_made_from_the_registries():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.split(BEGIN)[1].split(END)[0] == method_table()


def test_a_row_for_each_method_with_its_paper_and_its_everyday_settings():
    rows = method_table().splitlines()[2:]
    methods = [method for _, registry in FAMILIES for method in registry]
    assert len(rows) == len(methods) == len({method.key for method in methods})
    for row, method in zip(rows, methods, strict=True):
        cells = row.strip("| ").split(" | ")
        assert cells[0] == f"`{method.key}`" and method.summary in row
        for parameter in method.parameters:
            assert (f"`{parameter.name}`" in row) is not parameter.knob.advanced
        if method.paper and method.paper.arxiv:
            assert f"(https://arxiv.org/abs/{method.paper.arxiv})" in row


@pytest.mark.parametrize("flags", [[], ["--markdown"]])
def test_the_command_names_every_method(flags, capsys):
    assert main(["methods", *flags]) == 0
    printed = capsys.readouterr().out
    for _, registry in FAMILIES:
        assert all(key in printed for key in registry.keys())
