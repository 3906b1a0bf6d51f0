"""The host's own node manager installs and removes the pack, and nothing of it is left behind.

All of it happens in a temporary folder: a copy of the pinned ComfyUI, the manager that this ComfyUI
names, and a git repository with the files of the registry's package, served on the loopback. The
manager is configured to stay offline.
"""

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from craft_lora_pack import comfy_entrypoint

from launcher.paths import ROOT, shared_cache
from launcher.publish.registry import read_pack
from launcher.run.environment import Environment, ensure_environment
from launcher.run.hosts import Host
from launcher.run.pip import clean_environment
from launcher.run.server import LOOPBACK, Server

NAME = "craft-lora"
PLACE = f"custom_nodes/{NAME}"
LIMIT = 120  # seconds for one call of the manager; it takes four
AUTHOR = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "no_proxy": LOOPBACK,
    "NO_PROXY": LOOPBACK,
}
MANAGERS_CONFIG = "user/__manager/config.ini"
MANAGERS = {
    "user/__manager/batch_history",
    "user/__manager/cache",
    "user/__manager/channels.list",
    "user/__manager/snapshots",
    "user/__manager/startup-scripts",
}
SERVERS = {"input/3d", "logs", "temp"}  # and two logs, named after the port
ASKED = ("/object_info", "/workflow_templates", "/global_subgraphs", "/extensions", "/i18n")

Tree = dict[str, tuple[int, int] | None]


@dataclass
class Visit:
    """What was found after the pack was installed, used and removed."""

    package: set[str]
    before: Tree
    installed: Tree
    after: Tree
    python_before: set[str]
    python_after: set[str]
    answers: dict[str, Any]
    log: str
    port: int


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """One installation, one start of the server, one removal."""
    folder = tmp_path_factory.mktemp("manager")
    environment = ensure_environment(tools=True)
    comfyui = folder / "ComfyUI"
    # Another process may be writing the host's bytecode, at first under temporary names like these.
    shutil.copytree(environment.comfyui, comfyui, ignore=shutil.ignore_patterns("*.pyc.*"))
    (comfyui / MANAGERS_CONFIG).parent.mkdir(parents=True)
    (comfyui / MANAGERS_CONFIG).write_text("[default]\nnetwork_mode = offline\n")
    before, python_before = listing(comfyui), packages(environment)

    manage = partial(call_manager, environment.manager, comfyui)
    with served_package(folder) as address:
        manage("install", address, "--mode", "local", "--exit-on-fail")
    installed = listing(comfyui)
    server = Server(Host(comfyui, environment.manager, own=False), comfyui, cpu=True)
    server._command.append("--enable-manager")
    with server:
        answers = {path: server.client.get_json(path) for path in ASKED}
    manage("uninstall", NAME, "--mode", "local")
    yield Visit(
        package=set(read_pack(ROOT).files),
        before=before,
        installed=installed,
        after=listing(comfyui),
        python_before=python_before,
        python_after=packages(environment),
        answers=answers,
        log=server.log_text(),
        port=server.port,
    )
    shutil.rmtree(folder, ignore_errors=True)  # a hundred megabytes


def listing(comfyui: Path) -> Tree:
    """Every folder (None) and file (size, time of writing) of a ComfyUI.

    Without the bytecode that Python keeps of the host's own modules; the pack's is listed.
    """
    found: Tree = {}
    for path in comfyui.rglob("*"):
        name = path.relative_to(comfyui).as_posix()
        if "__pycache__" in path.parts and not name.startswith(PLACE):
            continue
        status = path.lstat()
        found[name] = None if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def packages(environment: Environment) -> set[str]:
    """The names of all that lies in the site-packages of the host and of its manager."""
    homes = (python.parent.parent for python in (environment.python, environment.manager))
    folders = [place for home in homes for place in home.glob("[Ll]ib*/**/site-packages")]
    assert len({folder.resolve() for folder in folders}) >= 2
    return {f"{folder}/{name}" for folder in folders for name in os.listdir(folder)}


@contextmanager
def served_package(folder: Path) -> Iterator[str]:
    """The address of a repository with one commit, of the package's files as they are now."""
    served, repository = folder / "served", folder / "served" / f"{NAME}.git"
    names = "\0".join(read_pack(ROOT).files)
    git = partial(run_git, repository, folder / "index")
    git("init", "--bare", "--quiet", str(repository))
    git("add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", given=names)
    git(*AUTHOR, "commit", "--quiet", "--message", "The package")
    git("update-server-info")
    handler = partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}/{NAME}.git"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def run_git(repository: Path, index: Path, *arguments: str, given: str = "") -> None:
    """git on a repository of its own, with the clone as its work tree; ours is not touched."""
    places = {
        "GIT_DIR": str(repository),
        "GIT_WORK_TREE": str(ROOT),
        "GIT_INDEX_FILE": str(index),
        "GIT_LITERAL_PATHSPECS": "1",
    }
    if arguments[0] == "init":
        places = {}
    done = subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env=os.environ | GIT | places,
        input=given,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"git {arguments[0]}: {done.stderr}"


PATIENT = """
import runpy, subprocess
ask = subprocess.check_output
subprocess.check_output = lambda *given, timeout=None, **more: ask(*given, **more)
runpy.run_module("cm_cli", run_name="__main__", alter_sys=True)
"""
"""The manager gives pip five seconds to start. On a busy machine it takes longer, and what the
manager uses instead does not see the host's packages and reports an error."""


def call_manager(python: Path, comfyui: Path, *arguments: str) -> None:
    """cm-cli, the manager's command line, on one ComfyUI."""
    done = subprocess.run(
        [str(python), "-c", PATIENT, *arguments],
        cwd=comfyui.parent,
        env=clean_environment(COMFYUI_PATH=str(comfyui), **GIT),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT,
        check=False,
    )
    failed = done.returncode != 0 or "ERROR" in done.stdout or "SKIPPED" in done.stdout
    assert not failed, f"cm-cli {arguments[0]} failed:\n{done.stdout}"


def test_the_installation_adds_the_packs_folder_and_no_other(visit):
    added = visit.installed.keys() - visit.before.keys()
    assert {name for name in added if not f"{name}/".startswith(f"{PLACE}/")} == MANAGERS
    assert {name: visit.installed[name] for name in visit.before} == visit.before


def test_the_packs_folder_holds_the_package_and_gits_own_folder(visit):
    inside = {
        name.removeprefix(f"{PLACE}/")
        for name, kind in visit.installed.items()
        if name.startswith(f"{PLACE}/") and kind is not None
    }
    assert {name for name in inside if not name.startswith(".git/")} == visit.package


def test_the_installed_pack_shows_all_its_nodes(visit):
    async def declared() -> set[str]:
        extension = await comfy_entrypoint()
        return {node.GET_SCHEMA().node_id for node in await extension.get_node_list()}

    info = visit.answers["/object_info"]
    shown = {node for node in info if info[node]["python_module"] == f"custom_nodes.{NAME}"}
    assert shown == asyncio.run(declared())


def test_the_installed_pack_serves_all_that_the_clone_has(visit):
    answers = visit.answers
    workflows = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(answers["/workflow_templates"][NAME]) == workflows
    subgraphs = answers["/global_subgraphs"].values()
    ours = [one for one in subgraphs if one["info"]["node_pack"] == f"custom_nodes.{NAME}"]
    assert {one["name"] for one in ours} == {
        path.stem for path in (ROOT / "subgraphs").glob("*.json")
    }
    scripts = {path.relative_to(ROOT / "web").as_posix() for path in (ROOT / "web").rglob("*.js")}
    start = f"/extensions/{NAME}/"
    served = [one.removeprefix(start) for one in answers["/extensions"] if one.startswith(start)]
    assert set(served) == scripts
    for language in (ROOT / "locales").iterdir():
        assert "CRAFTRouter" in answers["/i18n"][language.name]["nodeDefs"]


def test_the_log_says_of_the_pack_only_how_long_it_took(visit):
    lines = visit.log.replace(str(shared_cache()), "").splitlines()
    named = [line for line in lines if "craft" in line.lower()]
    assert len(named) == 1 and named[0].endswith(NAME) and " seconds: " in named[0]
    assert "IMPORT FAILED" not in visit.log and "Traceback" not in visit.log
    assert not [line for line in lines if "[ERROR]" in line]


def test_the_removal_leaves_the_managers_and_the_servers_own_files_only(visit):
    logs = {f"logs/server-{visit.port}.log", f"user/comfyui_{visit.port}.log"}
    assert visit.after.keys() - visit.before.keys() == MANAGERS | SERVERS | logs
    assert {name: visit.after[name] for name in visit.before} == visit.before


def test_nothing_is_installed_into_python(visit):
    assert visit.python_after == visit.python_before
