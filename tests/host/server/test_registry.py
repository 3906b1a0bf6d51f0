"""The host reads our pyproject.toml as its page and its node manager do."""

from comfy_config.config_parser import extract_node_configuration

from launcher.paths import ROOT


def test_the_host_understands_what_we_say_of_ourselves():
    facts = extract_node_configuration(str(ROOT))
    assert facts is not None
    assert facts.project.name == "craft-lora" and facts.project.version
    assert facts.project.license.file == "LICENSE"
    assert facts.project.supported_os == ["OS Independent"]
    assert facts.project.supported_comfyui_version == ">=0.20.1"
    assert facts.project.supported_accelerators == []  # the page reads no entry as: all systems
    assert facts.project.dependencies == []
    assert facts.tool_comfy.publisher_id and facts.tool_comfy.display_name
    assert not facts.tool_comfy.web  # or the page would load every script twice
