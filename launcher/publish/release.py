"""`run.py check-release`: everything that must be true before `comfy node publish`.

A test checks the rules of `registry.py` at every commit. Those here are only for someone who is
about to publish: the fields that a publisher fills in, a dated heading in the changelog,
a clean tree, a tag that is still free.
"""

import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from craft_lora_pack.craft_core.errors import listed

from ..paths import ROOT
from ..terminal import say
from .registry import (
    BANNER,
    ICON,
    RULES,
    Pack,
    PackRule,
    git,
    headings,
    read_pack,
    releases,
    version_of,
)

COMFY = ("--skip-prompt", "--no-enable-telemetry", "node", "validate")
MEGABYTE = 1e6
SHOWN = 5  # of the largest files, and of those that are not committed


def check_release(root: Path = ROOT) -> int:
    """Print each rule, and what to do where it is broken; 0 when none is."""
    pack = read_pack(root)
    publisher = pack.comfy.get("PublisherId") or "nobody"
    say(f"{pack.project['name']} {pack.project['version']}, to be published by {publisher}")
    say("\nAt every commit:")
    wrong = sum(_tell(rule, pack) for rule in RULES)
    say("\nFor a release:")
    wrong += sum(_tell(rule, pack) for rule in RELEASE_RULES)
    if shutil.which("comfy"):
        wrong += _tell(comfys_own_check, pack)
    else:
        say("  --   `comfy node validate` was not asked: pip install comfy-cli")
    say(f"\nIn the package:\n{contents(pack)}\n")
    if wrong:
        say(f"NOT READY: {wrong} of the above to put right.")
        return 1
    say("Ready: tag it, then `comfy node publish`; docs/releasing.md has the steps.")
    return 0


def _tell(rule: PackRule, pack: Pack) -> bool:
    """Print one rule with its complaints; whether it had any."""
    complaints = rule(pack)
    title = (rule.__doc__ or "").splitlines()[0].rstrip(".")
    say(f"  {'FIX' if complaints else 'ok ':4} {title}")
    for complaint in complaints:
        say(f"         - {complaint}")
    return bool(complaints)


def contents(pack: Pack) -> str:
    """How many files and bytes the package has, as files and as an archive; the largest files."""
    sizes = sorted(((pack.root / one).stat().st_size, one) for one in pack.files)
    total = sum(size for size, _ in sizes) / MEGABYTE
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for one in pack.files:
                packed.write(pack.root / one, one)
        zipped = archive.tell() / MEGABYTE
    lines = [f"  {len(sizes)} files, {total:.2f} MB, as an archive {zipped:.2f} MB; the largest:"]
    lines += [f"  {size / MEGABYTE:8.2f} MB  {one}" for size, one in sizes[: -SHOWN - 1 : -1]]
    return "\n".join(lines)


# --- the rules of a release


def published_fields(pack: Pack) -> list[str]:
    """The addresses that only a publisher knows are filled in."""
    owner = pack.repository.removeprefix("https://github.com/") or "OWNER/NAME"
    raw = f"https://raw.githubusercontent.com/{owner}/main"
    wanted = {
        "[project.urls] Repository": (pack.repository, f"https://github.com/{owner}"),
        "[tool.comfy] Icon": (pack.comfy.get("Icon"), f"{raw}/{ICON}"),
        "[tool.comfy] Banner": (pack.comfy.get("Banner"), f"{raw}/{BANNER}"),
    }
    return [
        f"{field} is missing: put {what}." for field, (given, what) in wanted.items() if not given
    ]


def dated_heading(pack: Pack) -> list[str]:
    """The changelog tells of this version, and nothing more is unreleased."""
    given = pack.project["version"]
    wrong = []
    if given not in releases(pack):
        wrong.append(
            f"CHANGELOG.md has no heading: write ## [{given}] - YYYY-MM-DD over its changes."
        )
    text = pack.text("CHANGELOG.md").partition("## [Unreleased]")[2].partition("\n## [")[0]
    if text.strip() and headings(pack)[0][0] == "Unreleased":
        wrong.append("CHANGELOG.md has changes under [Unreleased]: move them under the version.")
    return wrong


def clean_tree(pack: Pack) -> list[str]:
    """The working tree is clean, so that what is published is what is committed."""
    changed = git(pack.root, "status", "--porcelain").splitlines()
    if not changed:
        return []
    named = listed((line[3:] for line in changed), SHOWN)
    return [f"changed, or unknown to git: {named}: commit them."]


def free_tag(pack: Pack) -> list[str]:
    """The version is above all that are tagged."""
    given = version_of(pack.project["version"])
    tags = git(pack.root, "tag", "--list", "v*").split()
    numbers = [number for tag in tags if (number := version_of(tag[1:]))]
    if given is None or not numbers or given > max(numbers):
        return []
    newest = ".".join(map(str, max(numbers)))
    return [f"v{newest} is tagged already: give [project] version a higher number."]


def comfys_own_check(pack: Pack) -> list[str]:
    """`comfy node validate` has no complaint."""
    program = shutil.which("comfy")
    assert program is not None, "asked without comfy-cli"
    finished = subprocess.run(
        [program, *COMFY], cwd=pack.root, capture_output=True, encoding="utf-8", check=False
    )
    lines = (finished.stdout + finished.stderr).splitlines()
    wrong = [line.strip() for line in lines if re.search(r"error|warning", line, re.I)]
    if finished.returncode != 0 and not wrong:
        wrong = lines[-1:] or ["it failed without a word"]
    return wrong


RELEASE_RULES: tuple[PackRule, ...] = (
    published_fields,
    dated_heading,
    clean_tree,
    free_tag,
)
