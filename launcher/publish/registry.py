"""What the Comfy registry asks of a pack: each rule is a function that gives its complaints.

The rules are those of docs.comfy.org/registry (specifications and standards) and of `comfy node
publish`. A rule's first line says what holds when it has no complaint; a complaint is a sentence
that says what to do.
"""

import ast
import importlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LaunchError
from ..pack import PACK
from ..versions.matrix import OLDEST

ICON = "docs/icon.svg"
BANNER = "docs/banner.svg"
IGNORE_FILE = ".comfyignore"
NEEDED = (
    "__init__.py",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "run.py",
    ICON,
    BANNER,
)
SERVED = (
    "web",
    "locales",
    "workflows",
    "subgraphs",
    "small_world/references",
    "small_world/world",
    *(f"small_world/models/{kind}" for kind in ("checkpoints", "loras")),
    *(f"small_world/models/craft_{kind}" for kind in ("bases", "encoders")),
)
WEIGHTS = "small_world/models/"
# The rooms without `nodes`: imported by that name alone, it is the host's.
OURS = {"client", "cli", "craft_core", "comfy_adapter", "launcher", "small_world"}
OF_RUN_PY = ("launcher/", "run.py")  # what ComfyUI never loads
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "GPU :: Apple Metal",
    "NPU :: Huawei Ascend",
}
KINDS_OF_CHANGE = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
MOST_BYTES = 28 * 2**20
LARGE = 2**20  # bytes; files above it are weights of the demo
PICTURE_BYTES = 10_000

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
REPOSITORY = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Pack:
    """A clone as the registry sees it: what pyproject.toml says, and the files of the package."""

    root: Path
    facts: dict[str, Any]
    ignored: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def project(self) -> dict[str, Any]:
        return self.facts["project"]

    @property
    def comfy(self) -> dict[str, Any]:
        return self.facts["tool"]["comfy"]

    @property
    def repository(self) -> str:
        return self.project.get("urls", {}).get("Repository", "")

    @property
    def python_files(self) -> list[str]:
        return [name for name in self.files if name.endswith(".py")]

    def text(self, name: str) -> str:
        return (self.root / name).read_text("utf-8")


PackRule = Callable[[Pack], list[str]]


def read_pack(root: Path) -> Pack:
    """The clone at `root`: its tracked and new files, without what .comfyignore names."""
    # Python 3.10 has no reader of its own; pip brings one.
    reader = "tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli"
    facts = importlib.import_module(reader).loads((root / "pyproject.toml").read_text("utf-8"))
    lines = (root / IGNORE_FILE).read_text("utf-8").splitlines()
    ignored = tuple(line for line in lines if line and not line.startswith("#"))
    known = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    files = (name for name in sorted(set(known)) if (root / name).is_file())
    return Pack(root, facts, ignored, tuple(name for name in files if not _hit(name, ignored)))


def _hit(name: str, ignored: tuple[str, ...]) -> bool:
    path = f"/{name}"
    return any(path.startswith(one) if one.endswith("/") else path == one for one in ignored)


def git(root: Path, *arguments: str) -> str:
    """What git prints in `root`; LaunchError with git's own message when it fails."""
    try:
        finished = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError as error:
        raise LaunchError("this needs git, and git was not found; install it.") from error
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LaunchError(f"git {arguments[0]} failed in {root}: {reason}")
    return finished.stdout


def version_of(text: str) -> tuple[int, ...] | None:
    """X.Y.Z as numbers that can be compared; None for any other text."""
    found = VERSION.fullmatch(text)
    return tuple(int(part) for part in found.groups()) if found else None


def headings(pack: Pack) -> list[tuple[str, str]]:
    """(version, the rest of the line) of each heading of the changelog, from the top."""
    return re.findall(r"^## \[(.+?)\](.*)$", pack.text("CHANGELOG.md"), re.M)


def releases(pack: Pack) -> list[str]:
    """The changelog's versions, newest first."""
    return [version for version, _ in headings(pack) if version != "Unreleased"]


# --- the rules


def name(pack: Pack) -> list[str]:
    """The name is one that the registry takes."""
    given = pack.project["name"]
    if "comfy" in given.lower():
        return [f"[project] name {given!r}: the registry asks for names without ComfyUI's."]
    if re.fullmatch(r"[a-z]([._-]?[a-z0-9])*", given) and len(given) < 100:
        return []
    return [f"[project] name {given!r}: use small letters and digits, with single . _ - between."]


def version(pack: Pack) -> list[str]:
    """The version is semantic, and the changelog's newest once there is one."""
    given = pack.project["version"]
    if version_of(given) is None:
        return [f"[project] version {given!r} is not X.Y.Z: correct it."]
    known = releases(pack)
    if known and known[0] != given:
        return [f"the changelog's newest version is {known[0]}, pyproject.toml's {given}: agree."]
    return []


def changelog(pack: Pack) -> list[str]:
    """The changelog keeps its form: versions with days, newest first, changes by their kind."""
    found = headings(pack)
    wrong = [f"[{one}] is not X.Y.Z" for one in releases(pack) if version_of(one) is None]
    wrong += [
        f"[{one}] has no day: write ## [{one}] - YYYY-MM-DD"
        for one, rest in found
        if one != "Unreleased" and not re.fullmatch(r" - \d{4}-\d\d-\d\d", rest)
    ]
    numbers = [version_of(one) or () for one in releases(pack)]
    if any(first <= second for first, second in zip(numbers, numbers[1:], strict=False)):
        wrong.append("its versions do not go down from the newest")
    if ("Unreleased", "") in found[1:]:
        wrong.append("[Unreleased] is not at its head")
    kinds = re.findall(r"^### (.+)$", pack.text("CHANGELOG.md"), re.M)
    wrong += [f"{kind!r} is no kind of change" for kind in kinds if kind not in KINDS_OF_CHANGE]
    return [f"CHANGELOG.md: {text}." for text in wrong]


def facts(pack: Pack) -> list[str]:
    """What the registry shows of a pack is said: what, whose, licence, Python, display name."""
    project = pack.project
    wrong = []
    if not project.get("description"):
        wrong.append("[project] description is empty")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", pack.comfy.get("PublisherId", "")):
        wrong.append("[tool.comfy] PublisherId is not the name behind the @ at registry.comfy.org")
    if not re.fullmatch(r">=3\.\d+", project.get("requires-python", "")):
        wrong.append("[project] requires-python is not >=3.N")
    if not (pack.root / project.get("readme", "README.md")).is_file():
        wrong.append("[project] readme names no file")
    licence = pack.root / project["license"]["file"]
    if not (licence.is_file() and "MIT License" in licence.read_text("utf-8")):
        wrong.append("[project] license names no file with the MIT License")
    if not pack.comfy.get("DisplayName"):
        wrong.append("[tool.comfy] DisplayName is empty")
    return [f"{text}: correct it." for text in wrong]


def addresses(pack: Pack) -> list[str]:
    """The addresses that only a publisher knows (Repository, Icon, Banner) are empty or whole."""
    wrong = []
    if pack.repository and not REPOSITORY.fullmatch(pack.repository):
        wrong.append(f"Repository {pack.repository!r} is not https://github.com/OWNER/NAME")
    for field, file in (("Icon", ICON), ("Banner", BANNER)):
        given = pack.comfy.get(field, "")
        if given and not (given.startswith("https://") and given.endswith(f"/{file}")):
            wrong.append(f"[tool.comfy] {field} {given!r} is not the https address of {file}")
        if given and not pack.repository:
            wrong.append(f"[tool.comfy] {field} is set without a Repository that has it")
    return [f"{text}: correct it." for text in wrong]


def compatibility(pack: Pack) -> list[str]:
    """From the oldest tested ComfyUI on, on every system, on any accelerator or named."""
    project, wrong = pack.project, []
    if pack.comfy.get("requires-comfyui") != f">={OLDEST.version}":
        wrong.append(
            f"[tool.comfy] requires-comfyui is not >={OLDEST.version}, the oldest tested one"
        )
    said = project.get("classifiers", [])
    systems = [one for one in said if one.startswith("Operating System ::")]
    if systems != ["Operating System :: OS Independent"]:
        wrong.append("[project] classifiers do not say OS Independent alone")
    named = [one.partition(" :: ")[2] for one in said if one.startswith("Environment ::")]
    wrong += [
        f"Environment :: {one} is none of the registry's"
        for one in named
        if one not in ACCELERATORS
    ]
    return [f"{text}: correct it." for text in wrong]


def dependencies(pack: Pack) -> list[str]:
    """Nothing is installed beside what the host brings."""
    wrong = ["[project] dependencies is not empty"] if pack.project.get("dependencies") else []
    lines = pack.text("requirements.txt").splitlines()
    wrong += [f"requirements.txt asks for {line}" for line in lines if not line.startswith("#")]
    scripts = ("install.py", "uninstall.py", "prestartup_script.py")
    wrong += [f"{script} would be run" for script in scripts if (pack.root / script).exists()]
    return [f"{text}: take it out." for text in wrong]


def listing_pictures(pack: Pack) -> list[str]:
    """The icon is a square of at most 400 pixels, the banner 21 by 9."""
    return [*_picture(pack, ICON, 400, 400), *_picture(pack, BANNER, 1260, 540)]


def _picture(pack: Pack, file: str, width: int, height: int) -> list[str]:
    path = pack.root / file
    if not path.is_file():
        return [f"{file} is missing: put it back."]
    drawn = ElementTree.parse(path).getroot()
    fits = (drawn.get("width"), drawn.get("height")) == (str(width), str(height))
    wrong = [] if fits else [f"is not {width} x {height}"]
    if path.stat().st_size >= PICTURE_BYTES or "<script" in path.read_text("utf-8"):
        wrong.append(f"is larger than {PICTURE_BYTES} bytes, or has a script in it")
    return [f"{file} {text}: draw it anew." for text in wrong]


def ignore_file(pack: Pack) -> list[str]:
    """Every pattern of the ignore file is the path of something that is left out."""
    there = {
        one: (pack.root / one[1:]).is_dir()
        if one.endswith("/")
        else (pack.root / one[1:]).is_file()
        for one in pack.ignored
    }
    plain = {one for one in pack.ignored if re.fullmatch(r"/[^*?\[\]!\\]+", one)}
    return [
        f"{IGNORE_FILE}: {one} is no path from the root, beginning with /: correct it."
        for one in pack.ignored
        if one not in plain or not there[one]
    ]


def served(pack: Pack) -> list[str]:
    """All that the pack serves is in the package."""
    lacking = [one for one in NEEDED if one not in pack.files]
    for folder in SERVED:
        places = (path for path in (pack.root / folder).rglob("*") if path.is_file())
        lacking += [
            path.relative_to(pack.root).as_posix()
            for path in places
            if "__pycache__" not in path.parts
        ]
    lacking = sorted({one for one in lacking if one not in pack.files})
    return [f"{one} is not in the package: see {IGNORE_FILE} and .gitignore." for one in lacking]


def complete(pack: Pack) -> list[str]:
    """No file of the package imports one that is left out."""
    modules = {Path(one).with_suffix("").parts for one in pack.python_files}
    modules |= {parts[:-1] for parts in modules if parts[-1] == "__init__"}
    return [
        f"{one} imports {'.'.join(target)}, which is not in the package: see {IGNORE_FILE}."
        for one in pack.python_files
        for target in _imports_of_ours(pack, one)
        if _module(pack.root, target) not in modules
    ]


def _module(root: Path, target: tuple[str, ...]) -> tuple[str, ...]:
    """The module that an import means: its last part may be a name in it."""
    whole = root.joinpath(*target)
    is_module = whole.with_suffix(".py").is_file() or (whole / "__init__.py").is_file()
    return target if is_module else target[:-1]


def _imports_of_ours(pack: Pack, file: str) -> Iterator[tuple[str, ...]]:
    """What a file imports of the pack, as parts from its root."""
    for node in ast.walk(_tree(pack, file)):
        if isinstance(node, ast.ImportFrom):
            here = Path(file).parts[: -node.level] if node.level else ()
            base = (*here, *(node.module.split(".") if node.module else ()))
            if node.level == 0 and base[0] == PACK:
                yield from ((*base[1:], alias.name) for alias in node.names)
            elif node.level or base[0] in OURS:
                yield from ((*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            parts = (tuple(alias.name.split(".")) for alias in node.names)
            yield from (target for target in parts if target[0] in OURS)


def _tree(pack: Pack, file: str) -> ast.Module:
    return ast.parse(pack.text(file))


def size(pack: Pack) -> list[str]:
    """The package is small, and its large files are the demo's weights."""
    sizes = {one: (pack.root / one).stat().st_size for one in pack.files}
    wrong = [
        f"{one} has {bytes_ / LARGE:.1f} MiB"
        for one, bytes_ in sizes.items()
        if bytes_ > LARGE and not one.startswith(WEIGHTS)
    ]
    if sum(sizes.values()) >= MOST_BYTES:
        wrong.append(f"the package has {sum(sizes.values()) / LARGE:.1f} MiB")
    return [f"{text}: name what nobody needs in {IGNORE_FILE}." for text in wrong]


def no_forbidden_calls(pack: Pack) -> list[str]:
    """The code has no eval and no exec, which the registry prohibits."""
    return [
        f"{one}:{node.lineno} calls {node.func.id}: write it without."
        for one in pack.python_files
        for node in ast.walk(_tree(pack, one))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec")
    ]


def starts_nothing(pack: Pack) -> list[str]:
    """Nothing that ComfyUI loads starts programs or installs packages; run.py alone does."""
    return [
        f"{one} imports {found}: ComfyUI loads this file, write it without."
        for one in pack.python_files
        if not one.startswith(OF_RUN_PY)
        for found in _absolute_imports(_tree(pack, one)) & {"subprocess", "pip", "ensurepip"}
    ]


def _absolute_imports(tree: ast.Module) -> set[str]:
    """The top-level names of all absolute imports."""
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    names += [
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    return {one.split(".")[0] for one in names}


RULES: tuple[PackRule, ...] = (
    name,
    version,
    changelog,
    facts,
    addresses,
    compatibility,
    dependencies,
    listing_pictures,
    ignore_file,
    served,
    complete,
    size,
    no_forbidden_calls,
    starts_nothing,
)
