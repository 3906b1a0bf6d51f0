"""Take the emoji sets from npm and draw them: FOLDER/<set>/<word>.png, and each set's licence.

npm has to be at hand.  The drawing is done by resvg-py, which pip puts into a folder of its own.
"""

import importlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from .sets import NAMES, SETS, SETTLED, EmojiSet

SIDE = 128  # pixels of a kept picture
RENDERER = "resvg-py==0.5.0"
VARIATION = "-fe0f"  # asks for the coloured form of a character; some sets leave it out


def fetch(folder: Path) -> None:
    """Draw what is missing in FOLDER, and say how many objects each set has."""
    packages = {name: _package(folder, one) for name, one in SETS.items()}
    for name, words in called(packages).items():
        missing = {w: n for w, n in words.items() if not (folder / name / f"{w}.png").is_file()}
        for word, own in missing.items():
            picture = drawn(packages[name]["icons.json"], own, _renderer(folder))
            picture.save(folder / name / f"{word}.png", optimize=True)
        info = packages[name]["info.json"]
        licence = {key: info[key] for key in ("name", "author", "license")}
        (folder / name / "LICENCE.json").write_text(json.dumps(licence, indent=1), "utf-8")
        print(f"{name}: {len(words)} objects, {licence['license']['title']}", flush=True)


def called(packages: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """{set: {word: name there}}: by the character, where a set tells its characters, or else by
    any name that another set has for the same character."""
    characters = {
        name: {key.replace(VARIATION, ""): own for key, own in one.get("chars.json", {}).items()}
        for name, one in packages.items()
    }
    known = {
        name: one["icons.json"]["icons"].keys() | one["icons.json"].get("aliases", {}).keys()
        for name, one in packages.items()
    }
    result: dict[str, dict[str, str]] = {name: {} for name in packages}
    for word, settled in NAMES.items():
        keys = [key for key, own in characters[SETTLED].items() if own == settled]
        others = [one[key] for one in characters.values() for key in keys if key in one]
        for name in packages:
            own = [characters[name][key] for key in keys if key in characters[name]]
            own += [other for other in (settled, word, *others) if other in known[name]]
            if own:
                result[name][word] = own[0]
    return result


def drawn(icons: dict[str, Any], name: str, renderer: Any) -> Image.Image:
    """An icon of a set (IconifyJSON) on white, (SIDE, SIDE) RGB."""
    icon = _resolved(icons, name)
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIDE}" height="{SIDE}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body'].replace('currentColor', '#000')}</svg>"
    )
    png = renderer.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def _resolved(icons: dict[str, Any], name: str) -> dict[str, Any]:
    """The icon that a name stands for; an alias may change parts of its parent."""
    changed: dict[str, Any] = {}
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        changed = {**alias, **changed}
        name = alias["parent"]
    return {**icons["icons"][name], **changed}


def _package(folder: Path, one: EmojiSet) -> dict[str, Any]:
    """The JSON files of a set's npm package, got once."""
    place = folder / one.name
    place.mkdir(parents=True, exist_ok=True)
    archive = place / f"iconify-json-{one.name}-{one.version}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")  # on Windows npm.cmd
        if npm is None:
            raise SystemExit("The emoji sets come from npm, which was not found: install Node.js.")
        asked = f"@iconify-json/{one.name}@{one.version}"
        subprocess.run([npm, "pack", "--silent", asked], cwd=place, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return dict(_members(archive))


def _members(archive: Path) -> Iterator[tuple[str, Any]]:
    with tarfile.open(archive) as opened:
        for name in ("icons.json", "chars.json", "info.json"):
            file = opened.extractfile(f"package/{name}")
            assert file is not None
            yield name, json.load(file)


def _renderer(folder: Path) -> Any:
    """The module resvg_py, from a folder of its own beside the pictures."""
    target = str(folder / "resvg")
    if not (folder / "resvg").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", target, RENDERER]
        subprocess.run(command, check=True)
    if target not in sys.path:
        sys.path.append(target)
    return importlib.import_module("resvg_py")
