"""The launcher: a user's mistake is one sentence, an interrupt loses nothing, and a ComfyUI that
the launcher did not install is never written to."""

import contextlib
import http.server
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fake_comfyui
import pytest
from craft_lora_pack.client import client

from launcher import commands, paths
from launcher.commands import main
from launcher.errors import LaunchError
from launcher.run import cache, environment, hosts, pip, server, small_world, tiers, workspace
from launcher.terminal import bar

# --- where things are


def test_the_cache_is_the_users_on_every_system(tmp_path):
    home = {"HOME": str(tmp_path)}
    assert paths.user_cache("linux", home) == tmp_path / ".cache"
    assert paths.user_cache("linux", home | {"XDG_CACHE_HOME": "/x"}) == Path("/x")
    assert paths.user_cache("linux", home | {"XDG_CACHE_HOME": "rel"}) == tmp_path / ".cache"
    assert paths.user_cache("darwin", home) == tmp_path / "Library" / "Caches"
    local = str(tmp_path / "Local")
    assert paths.user_cache("win32", home | {"LOCALAPPDATA": local}) == Path(local)


def test_clones_share_the_host_and_have_a_workspace_each():
    here, there = paths.workspace_of(Path("/a/clone")), paths.workspace_of(Path("/b/clone"))
    assert here != there and here.parent == there.parent == paths.shared_cache() / "workspaces"
    assert environment.PINNED.home.parent == paths.shared_cache()


# --- stamps, lock, disk


def test_a_damaged_or_missing_stamp_file_means_nothing_is_finished(tmp_path):
    stamps = tmp_path / "installed.json"
    assert cache.read_stamps(stamps) == {}
    stamps.write_text('{"host": "12')
    assert cache.read_stamps(stamps) == {}
    cache.write_stamps(stamps, {"host": "1234"})
    assert cache.read_stamps(stamps) == {"host": "1234"}


def test_another_recipe_makes_a_stamp_void():
    old = environment.PinnedHost()
    new = environment.PinnedHost(requirements=("torch==9",))
    assert environment.recipe_digests(old)["host"] != environment.recipe_digests(new)["host"]
    assert environment.recipe_digests(old)["tools"] == environment.recipe_digests(new)["tools"]


def test_a_second_set_up_waits_for_the_first_even_when_that_one_is_killed(tmp_path):
    lock = tmp_path / "lock"
    hold = (
        "import sys, time; sys.path.append(sys.argv[1]); from launcher.run.cache import locked\n"
        "from pathlib import Path\n"
        "with locked(Path(sys.argv[2])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(paths.ROOT), str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        entered = threading.Event()

        def second() -> None:
            with cache.locked(lock, pause=0.01):
                entered.set()

        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.2)
        first.kill()
        waiting.join(30)
    assert entered.is_set()


def test_a_full_disk_is_told_before_anything_is_downloaded(tmp_path):
    with pytest.raises(LaunchError, match="not enough disk"):
        cache.require_disk(tmp_path, 2**62)
    cache.require_disk(tmp_path, 1)


# --- download and unpacking


def archive(folder: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    path = folder / "host.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                bundle.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return path


def test_only_the_hosts_tree_is_unpacked(tmp_path):
    path = archive(tmp_path, {"p/other.py": b"1", "p/host/main.py": b"2", "p/host/a/b.py": b"3"})
    environment.unpack_tree(path, "p/host", tmp_path / "ComfyUI")
    files = {f.relative_to(tmp_path / "ComfyUI").as_posix() for f in walk(tmp_path / "ComfyUI")}
    assert files == {"main.py", "a/b.py"}


def walk(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", ["p/host/../../evil.py", "p/host/a\\..\\evil.py", "p/host/C:evil"])
def test_a_name_that_leaves_the_folder_stops_the_unpacking(tmp_path, name):
    path = archive(tmp_path, {"p/host/main.py": b"2", name: b"evil"})
    with pytest.raises(LaunchError, match="unsafe name"):
        environment.unpack_tree(path, "p/host", tmp_path / "x" / "ComfyUI")
    assert not (tmp_path / "x" / "ComfyUI").exists()
    assert not [file for file in walk(tmp_path) if "evil" in file.name]


def test_a_link_in_the_archive_stops_the_unpacking(tmp_path):
    info = tarfile.TarInfo("p/host/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = archive(tmp_path, {"p/host/main.py": b"2", "link": info})
    with pytest.raises(LaunchError, match="link or device"):
        environment.unpack_tree(path, "p/host", tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_a_cut_off_archive_leaves_no_half_of_a_host(tmp_path):
    path = archive(tmp_path, {"p/host/main.py": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(LaunchError, match="cannot be unpacked"):
        environment.unpack_tree(path, "p/host", tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_a_wrong_download_is_refused_and_removed(tmp_path):
    file = tmp_path / "comfy.tar.gz"
    file.write_bytes(b"something else")
    with pytest.raises(LaunchError, match="not the pinned file"):
        environment.verify(file, environment.PINNED.sha256)
    assert not file.exists()
    with pytest.raises(LaunchError, match="did not arrive"):
        environment.verify(file, environment.PINNED.sha256)


def test_a_package_cut_off_while_it_was_installed_is_installed_again(tmp_path):
    packages = tmp_path / "lib" / "python3" / "site-packages"
    for name, record in (("whole-1.dist-info", True), ("half-1.dist-info", False)):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").touch()
        if record:
            (packages / name / "RECORD").touch()
    environment._drop_half_installed(tmp_path)
    assert [folder.name for folder in packages.iterdir()] == ["whole-1.dist-info"]


# --- pip


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: NewConnectionError\nERROR: No matching distribution", "could not be downloaded"),
        ("noise\nERROR: No matching distribution found for torch", "No matching distribution"),
        ("", "no reason given"),
    ],
)
def test_a_failing_pip_is_one_sentence_that_says_how_to_go_on(output, sentence):
    text = pip.explain(output, Path("set-up.log"))
    assert sentence in text and "run the same command again" in text and "\n" not in text


def test_pip_progress_counts_what_it_downloads():
    progress = pip.PipProgress()
    assert progress.read("Collecting torch") is None
    progress.read("Downloading torch-2.11.0-cp311-manylinux_x86_64.whl (500.5 MB)")
    assert progress.read("  Downloading a-1.whl (500 kB)") == "a 500 kB (2 packages, 501 MB)"
    installing = progress.read("Installing collected packages: a, torch")
    assert installing == "unpacking 2 packages, 0.5 GB"


def test_no_package_index_is_one_sentence(tmp_path, monkeypatch):
    """A real pip against a port where nothing listens."""
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.free_port()}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    request = ["download", "--no-deps", "-d", str(tmp_path), "craft-no-such-package==1"]
    with pytest.raises(LaunchError, match="could not be downloaded"):
        pip.pip(Path(sys.executable), request, log=tmp_path / "log", scratch=tmp_path / "s")


def test_a_child_process_sees_nothing_of_another_python(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("KEPT", "1")
    made = pip.clean_environment(ADDED="2")
    assert "PYTHONPATH" not in made and made["KEPT"] == "1" and made["ADDED"] == "2"
    assert os.environ["PYTHONPATH"] == "/elsewhere"


# --- which host


def comfyui(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "cli_args.py").touch()
    (folder / "main.py").touch()
    return folder


def test_the_named_comfyui_comes_first_then_the_one_around_us(tmp_path):
    named, around = comfyui(tmp_path / "named"), comfyui(tmp_path / "around")
    clone = around / "custom_nodes" / "pack"
    assert hosts.find_own_comfyui(clone, {"COMFYUI_PATH": str(named)}) == named
    assert hosts.find_own_comfyui(clone, {}) == around
    assert hosts.find_own_comfyui(tmp_path / "clone", {"COMFYUI_PATH": "  "}) is None


def test_a_portable_build_may_be_named_by_its_outer_folder(tmp_path):
    inner = comfyui(tmp_path / "portable" / "ComfyUI")
    named = {"COMFYUI_PATH": str(tmp_path / "portable")}
    assert hosts.find_own_comfyui(tmp_path, named) == inner


def test_a_wrong_comfyui_path_is_an_error_and_not_another_host(tmp_path):
    with pytest.raises(LaunchError, match="no ComfyUI is there"):
        hosts.find_own_comfyui(tmp_path, {"COMFYUI_PATH": str(tmp_path)})


@pytest.mark.parametrize(
    "place",
    [
        "ComfyUI/venv/bin/python",
        "ComfyUI/.venv/bin/python",
        "ComfyUI/venv/Scripts/python.exe",
        ".venv/bin/python",
        "python_embeded/python.exe",
    ],
)
def test_the_python_of_the_users_comfyui_is_found(tmp_path, place):
    host = comfyui(tmp_path / "ComfyUI")
    python = tmp_path / place
    python.parent.mkdir(parents=True)
    python.touch()
    assert hosts.find_python(host, {}) == python
    assert hosts.find_python(host, {"COMFYUI_PYTHON": sys.executable}) == Path(sys.executable)
    with pytest.raises(LaunchError, match="there is no such file"):
        hosts.find_python(host, {"COMFYUI_PYTHON": str(tmp_path / "gone")})


def test_a_python_without_torch_is_one_sentence(tmp_path):
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    with pytest.raises(LaunchError, match="No module named 'torch'.*COMFYUI_PYTHON"):
        hosts.device_of(hosts.Host(tmp_path, python, own=True))


# --- workspace


def tree(folder: Path) -> dict[str, int]:
    return {str(entry): entry.lstat().st_mtime_ns for entry in sorted(folder.rglob("*"))}


def test_the_packs_are_linked_and_the_users_comfyui_is_not_touched(tmp_path):
    host = comfyui(tmp_path / "ComfyUI")
    (host / "models" / "loras").mkdir(parents=True)
    before = tree(host)
    base = workspace.prepare_workspace(hosts.Host(host, Path("python"), own=True), tmp_path / "b")
    workspace.link(workspace.ROOT, base / "custom_nodes" / workspace.FORMER)
    again = workspace.prepare_workspace(hosts.Host(host, Path("python"), own=True), tmp_path / "b")
    assert again == base and tree(host) == before
    assert {entry.name for entry in (base / "custom_nodes").iterdir()} == set(workspace.PACKS)
    for name, pack in workspace.PACKS.items():
        assert os.path.realpath(base / "custom_nodes" / name) == os.path.realpath(pack)
    models = json.loads((base / workspace.USER_MODELS).read_text())
    assert models["user_comfyui"] == {"loras": str(host / "models" / "loras")}


def test_what_windows_says_of_a_link_may_be_in_any_encoding(tmp_path):
    """cmd speaks that of the console, in which a German letter is a byte that Python's has not."""
    code = "import sys; sys.{}.buffer.write(b'f\\x81r'); sys.exit({})"
    workspace.make_junction(tmp_path, [sys.executable, "-c", code.format("stdout", 0)])
    with pytest.raises(LaunchError, match="f.r$"):
        workspace.make_junction(tmp_path, [sys.executable, "-c", code.format("stderr", 1)])


def test_a_stale_link_is_renewed_and_a_real_folder_is_never_replaced(tmp_path):
    old, new, place = tmp_path / "old", tmp_path / "new", tmp_path / "place"
    old.mkdir()
    new.mkdir()
    workspace.link(old, place)
    workspace.link(new, place)
    assert place.resolve() == new and old.is_dir()
    with pytest.raises(LaunchError, match="in the way"):
        workspace.link(new, old)


def names(folder: Path) -> set[str]:
    return {str(entry.relative_to(folder)) for entry in folder.rglob("*")}


def test_the_small_world_is_added_to_a_users_comfyui_and_removed_without_a_trace(tmp_path):
    host = comfyui(tmp_path / "ComfyUI")
    for name in ("custom_nodes", "input/own"):
        (host / name).mkdir(parents=True)
    before = names(host)
    small_world.add_small_world(host)
    small_world.add_small_world(host)  # again does no harm
    assert workspace.leads_to(
        host / "custom_nodes" / "craft_small_world", paths.ROOT / "small_world"
    )
    assert {"input/craft_small_world_content.png", "input/craft_small_world/style.png"} <= names(
        host
    )
    small_world.remove_small_world(host)
    assert names(host) == before
    small_world.remove_small_world(host)  # again does no harm


def test_what_is_the_users_stays_when_the_small_world_comes_and_goes(tmp_path):
    host = comfyui(tmp_path / "ComfyUI")
    small_world.add_small_world(host)
    picture = host / "input" / "craft_small_world_content.png"
    picture.write_bytes(b"painted over")
    with pytest.raises(LaunchError, match="in the way"):
        small_world.add_small_world(host)
    small_world.remove_small_world(host)
    assert picture.read_bytes() == b"painted over"
    assert not (host / "custom_nodes" / "craft_small_world").exists()


def test_the_small_world_goes_where_the_users_node_packs_are(tmp_path):
    host, clone = comfyui(tmp_path / "ComfyUI"), tmp_path / "base" / "custom_nodes" / "pack"
    assert small_world.own_folder(clone, {"COMFYUI_PATH": str(host)}) == host
    assert small_world.own_folder(clone, {}) == tmp_path / "base"
    with pytest.raises(LaunchError, match="set COMFYUI_PATH"):
        small_world.own_folder(tmp_path / "elsewhere", {})


# --- server


def test_a_port_in_use_is_one_sentence():
    with socket.socket() as other:
        other.bind((server.LOOPBACK, 0))
        other.listen()
        with pytest.raises(LaunchError, match="cannot be used"):
            server.require_port(other.getsockname()[1])
    with pytest.raises(LaunchError, match="not a port"):
        server.require_port(70000)
    assert server.require_port(port := server.free_port()) == port


def test_the_page_keeps_its_port_while_nobody_else_has_it(monkeypatch):
    with socket.socket() as other:
        other.bind((server.LOOPBACK, 0))
        monkeypatch.setattr(server, "USUAL_PORT", other.getsockname()[1])
        other.listen()
        assert server.usual_port() != server.USUAL_PORT
    assert server.usual_port() == server.USUAL_PORT == server.usual_port()


def test_a_host_that_dies_while_starting_shows_its_last_lines(tmp_path):
    (tmp_path / "main.py").write_text(
        "print('\\x1b[31mno such device\\x1b[0m'); raise SystemExit(3)"
    )
    host = hosts.Host(tmp_path, Path(sys.executable), own=False)
    with pytest.raises(LaunchError, match=r"(?s)stopped while starting.*  no such device\nLog: "):
        server.Server(host, tmp_path, cpu=True).__enter__()


STAND_IN = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')
port = int(sys.argv[sys.argv.index('--port') + 1])
http.server.HTTPServer(('127.0.0.1', port), Handler).serve_forever()
"""


def test_leaving_the_server_ends_its_process(tmp_path):
    (tmp_path / "main.py").write_text(STAND_IN)
    host = hosts.Host(tmp_path, Path(sys.executable), own=False)
    with server.Server(host, tmp_path, cpu=True) as run:
        assert run.alive()
        process = run._process
    assert process is not None and process.returncode is not None and not run.alive()


def test_the_host_writes_to_our_base_directory_only(tmp_path):
    host = hosts.Host(Path("/their/ComfyUI"), Path("python"), own=True)
    command = server.server_command(host, tmp_path, 8190, cpu=False)
    assert command[command.index("--base-directory") + 1] == str(tmp_path)
    assert command[command.index("--database-url") + 1] == "sqlite:///:memory:"
    assert command[command.index("--listen") + 1] == "127.0.0.1"
    assert "--cpu" not in command
    assert "--cpu" in server.server_command(host, tmp_path, 8190, cpu=True)
    assert server.Server(host, tmp_path, cpu=True)._environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_a_pack_that_the_host_could_not_load_is_named_with_the_reason():
    log = (
        "Cannot import /b/custom_nodes/craft_small_world module for custom nodes: no torch\n"
        "   0.0 seconds: /b/custom_nodes/craft-lora\n"
        "   0.1 seconds (IMPORT FAILED): /b/custom_nodes/craft_small_world\n"
        "   0.1 seconds (IMPORT FAILED): /b/custom_nodes/someone-elses\n"
    )
    assert server.failed_imports(log) == ["craft_small_world: no torch"]
    assert server.failed_imports(log.replace("/", "\\")) == ["craft_small_world: no torch"]


def test_only_the_newest_logs_are_kept(tmp_path):
    for age in range(8):
        (tmp_path / f"server-{age}.log").touch()
        os.utime(tmp_path / f"server-{age}.log", (100 - age, 100 - age))
    server.drop_old_logs(tmp_path)
    assert sorted(log.name for log in tmp_path.iterdir()) == [f"server-{n}.log" for n in range(4)]


# --- client


PROMPT = {"3": {"class_type": "Sampler", "inputs": {}, "_meta": {"title": "My sampler"}}}


def test_a_refusal_gives_the_hosts_words_for_each_node():
    errors = [{"message": "Value not in list", "details": "name: 'x' not in []"}]
    answer = {"error": {"message": "failed"}, "node_errors": {"3": {"errors": errors}}}
    explained = client.explain_refusal(json.dumps(answer), PROMPT)
    assert explained.endswith("node 3 (My sampler): Value not in list: name: 'x' not in []")
    assert "no outputs" in client.explain_refusal('{"error": {"message": "no outputs"}}', PROMPT)
    assert "<html>" in client.explain_refusal("<html>bad gateway", PROMPT)


def test_a_failure_is_told_in_the_nodes_words():
    failing = {"node_id": "3", "node_type": "Sampler", "exception_message": "too big\n"}
    messages = [["execution_start", {}], ["execution_error", failing]]
    assert client.explain_failure(messages) == "node 3 (Sampler) failed: too big"
    assert "interrupted" in client.explain_failure([["execution_interrupted", {}]])


def test_saved_pictures_come_before_previews():
    preview, saved = {"filename": "p", "type": "temp"}, {"filename": "s", "type": "output"}
    both = client.PromptResult("", {"1": {"images": [preview]}, "2": {"images": [saved]}})
    assert both.files() == [saved]
    assert client.PromptResult("", {"1": {"images": [preview]}}).files() == [preview]


def test_events_of_a_prompt_that_ended_before_it_was_followed_are_shown():
    """As on a busy machine, where a short prompt is finished before its client asks."""
    seen = []
    with fake_comfyui.FakeComfyUI() as fake:
        connection = client.Client(fake.url)
        with connection.listening() as events:
            assert until(lambda: fake._sockets)
            prompt_id = connection.queue(fake_comfyui.PROMPT, prompt_id="a")
            assert until(lambda: fake.history)
            connection.follow(events, prompt_id, lambda kind, data: seen.append(kind), 30)
    assert seen == ["executing", "progress"] * len(fake_comfyui.PROMPT) + ["execution_success"]


def until(state) -> bool:
    """Wait for a state; if it does not come, the test fails and names it."""
    for _ in range(600):
        if state():
            return True
        time.sleep(0.05)
    return False


def test_the_loopback_is_never_asked_through_a_proxy(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"here": 1}')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as local:
        threading.Thread(target=local.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        connection = client.Client(f"http://127.0.0.1:{local.server_port}")
        assert connection.get_json("/anything") == {"here": 1}
        local.shutdown()


# --- tests of the tests


def test_a_tier_in_which_nothing_ran_is_told_from_one_that_passed(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="3" skipped="3"/></testsuites>')
    assert tiers.count_executed(report) == 0
    report.write_text('<testsuites><testsuite tests="3" skipped="1" failures="1"/></testsuites>')
    assert tiers.count_executed(report) == 2


def test_the_slowest_files_of_a_tier_are_named(tmp_path):
    report = tmp_path / "report.xml"
    cases = [("tests.unit.test_a", 30), ("tests.unit.far.test_b", 90), ("tests.unit.test_a", 36)]
    report.write_text("<testsuites><testsuite>" + "".join(
        f'<testcase classname="{file}" name="one" time="{seconds}"/>' for file, seconds in cases
    ) + "</testsuite></testsuites>")  # fmt: skip
    assert tiers.slowest_files(report) == "test_b 1.5, test_a 1.1"


@pytest.mark.parametrize(
    ("source", "passes"),
    [
        ("def test_a(): pass", True),
        ("def test_a(): assert 0", False),
        ("import pytest\n@pytest.mark.skip\ndef test_a(): pass", False),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_tier_passes_only_when_a_test_ran_and_none_failed(tmp_path, source, passes, workers):
    (tmp_path / "test_it.py").write_text(source)
    assert run_tests(tmp_path, workers=workers) is passes


def run_tests(folder, *options, **choice) -> bool:
    """A tier of the tests in a folder, with all that holds for our own tests."""
    own = (paths.ROOT / "tests" / "conftest.py").read_text("utf-8")
    found = f"import sys\nsys.path.append({str(paths.ROOT)!r})\n"  # where `launcher` is
    (folder / "conftest.py").write_text(found + own, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = sweep\naddopts = --strict-markers")
    host = hosts.Host(folder, Path(sys.executable), own=False)
    arguments = [str(folder), *options, "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return tiers._pytest(host, "unit", tiers.Choice(arguments, **choice))


def test_a_crashed_worker_is_one_failed_test_and_the_others_are_run(tmp_path, capfd):
    before, after = ("def test_before(): pass", "def test_after(): print('in the same file')")
    crash = "import os\ndef test_crash(): os._exit(0)"
    (tmp_path / "test_a.py").write_text(f"{before}\n{crash}\n{after}")
    (tmp_path / "test_b.py").write_text("def test_b(): pass")
    assert not run_tests(tmp_path, workers=2)
    said = capfd.readouterr().out
    assert "crashed while running 'test_a.py::test_crash'" in said
    assert "1 failed, 3 passed" in said


def test_a_files_tests_run_on_one_worker_in_their_order(tmp_path):
    count = "ran = []\n@pytest.mark.parametrize('i', range(9))\ndef test_it(i):\n"
    count += "    assert ran == list(range(i))\n    ran.append(i)"
    for name in "abc":
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{count}")
    assert run_tests(tmp_path, workers=2)


def test_long_files_are_begun_first(tmp_path, capfd):
    for name in ("test_first.py", "test_workflows.py"):
        (tmp_path / name).write_text("def test_it(): pass")
    assert run_tests(tmp_path, "-vv")
    said = capfd.readouterr().out
    assert said.index("test_workflows.py::test_it") < said.index("test_first.py::test_it")


def test_every_file_to_begin_with_is_there(pytestconfig):
    conftest = pytestconfig.pluginmanager.get_plugin(str(paths.ROOT / "tests" / "conftest.py"))
    names = {path.name for path in (paths.ROOT / "tests").rglob("test_*.py")}
    assert set(conftest.LONGEST_FIRST) <= names


def test_sweeps_run_only_when_all_is_asked_for(tmp_path, capfd):
    source = "import pytest\ndef test_a(): pass\n@pytest.mark.sweep\ndef test_b(): assert 0"
    (tmp_path / "test_it.py").write_text(source)
    assert run_tests(tmp_path)
    assert not run_tests(tmp_path, sweeps=True)
    assert not run_tests(tmp_path, "-k", "test_b")
    assert "no unit test" in capfd.readouterr().out


def test_workers_share_the_processors_and_fit_into_memory(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(tiers, "_processors", lambda: 6)
    for gigabytes, workers in ((64, 4), (8, 2), (2, 1)):
        monkeypatch.setattr(tiers, "_memory", lambda size=gigabytes: size * cache.GIGABYTE)
        assert tiers.default_workers() == workers
    shares = [tiers._threads(workers) for workers in (1, 2, 4, 8)]
    assert shares == [{}, *({"OMP_NUM_THREADS": n} for n in "311")]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert tiers._threads(2) == {}  # the user's own word


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_a_wrong_number_of_workers_is_told_before_anything_is_set_up(workers, capsys):
    with pytest.raises(SystemExit):
        main(["test", f"--workers={workers}"])
    assert "not a number of workers" in capsys.readouterr().err


def test_a_named_browser_that_cannot_run_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM_PATH", str(tmp_path / "gone"))
    with pytest.raises(LaunchError, match="cannot be run"):
        tiers.find_chromium()


@pytest.fixture
def passed_on(monkeypatch):
    """What the tier gives to pytest."""
    found = {}
    monkeypatch.setattr(tiers, "require_compiler", lambda: None)
    monkeypatch.setattr(tiers, "_python", lambda host, command, **_: found.update(built=command))
    monkeypatch.setattr(tiers.sys, "platform", "linux")
    monkeypatch.setattr(
        tiers, "_pytest", lambda host, tier, choice, **environment: found.update(
            tier=tier, arguments=list(choice.arguments), environment=environment)
    )  # fmt: skip
    return found


@pytest.mark.parametrize("sweeps", [False, True])
def test_the_device_tier_is_a_part_of_the_host_tests_on_another_device(sweeps, passed_on):
    tiers.device_tests(None, tiers.Choice(["-x"], sweeps=sweeps))
    *files, last = passed_on["arguments"]
    assert last == "-x" and files
    assert all((paths.ROOT / file).exists() and file.startswith("tests/host/") for file in files)
    script, library = passed_on["built"]
    assert Path(script).is_file()
    assert passed_on["environment"] == {
        "CRAFT_TEST_DEVICE": "pretend", "CRAFT_PRETEND_DEVICE": library,
    }  # fmt: skip


def test_the_device_tier_runs_the_tests_that_a_user_names(passed_on):
    named = "tests/host/device/test_pretend_device.py::test_the_device_refuses_what_a_card_refuses"
    tiers.device_tests(None, tiers.Choice([named]))
    assert passed_on["arguments"] == [named]


def test_a_lacking_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tiers.shutil, "which", lambda name: None)
    with pytest.raises(LaunchError, match=r"need the C\+\+ compiler g\+\+, and none was found"):
        tiers.require_compiler()


def test_the_device_tier_is_left_out_where_its_device_cannot_be_built(passed_on, monkeypatch):
    monkeypatch.setattr(tiers.sys, "platform", "win32")
    assert tiers.device_tests(None, tiers.Choice())
    assert not passed_on


# --- the command line


def test_a_users_mistake_is_one_line_and_status_one(capsys):
    assert main(["workflow", "no-such.json"]) == 1
    assert main(["bench", "no-such"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)


def test_without_a_command_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert all(name in said for name in ("demo", "host", "small-world", "test"))


def test_the_demo_says_what_its_pictures_show(monkeypatch, capsys):
    monkeypatch.setattr(commands, "generate", lambda *_, **__: None)
    assert main(["demo"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("left to right", "noise", "pairs_*", "run.py host"))


def test_the_host_says_where_models_and_pictures_are(tmp_path, monkeypatch, capsys):
    running = SimpleNamespace(
        url="http://127.0.0.1:8288", folder=tmp_path, wait=lambda: 3, log_tail=lambda: "its log"
    )
    monkeypatch.setattr(commands, "open_server", lambda _: contextlib.nullcontext(running))
    assert main(["host", "--no-browser", "--port", "8288"]) == 1  # it ended by itself
    told = capsys.readouterr()
    assert all(str(tmp_path / name) in told.out for name in ("models", "output"))
    assert running.url in told.out and "its log" in told.err


def test_an_old_python_is_told_so_by_run_py_itself(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 .* this is Python 3\.8"):
        runpy.run_path(str(paths.ROOT / "run.py"), run_name="run")


def test_run_py_runs_on_a_python_that_looks_in_its_own_folders_alone(tmp_path):
    """As that of ComfyUI's portable build does; -I makes another one so."""
    command = [sys.executable, "-I", str(paths.ROOT / "run.py"), "--help"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "") and "run.py demo" in ran.stdout


def test_ctrl_c_while_run_py_imports_is_one_line(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "launcher.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "launcher.commands")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["run.py", "demo"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(paths.ROOT / "run.py"), run_name="__main__")
    assert left.value.code == 130 and capsys.readouterr().err == "stopped.\n"


BREAKING = [
    PermissionError(13, "Permission denied", "place"), OSError(28, "No space left on device"),
    RecursionError("deep"), MemoryError(), OverflowError("large"), re.error("pattern"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"),
]  # fmt: skip


@pytest.mark.parametrize("error", BREAKING, ids=repr)
def test_what_breaks_by_the_users_files_is_one_line(monkeypatch, capsys, error):
    def breaks(*_):
        raise error

    monkeypatch.setattr(commands, "generate", breaks)
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_python_that_the_pinned_torch_is_not_made_for_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(LaunchError, match=r"Python 3\.10 to 3\.14"):
        environment.check_this_python()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_the_command_and_its_server(tmp_path, name):
    """run.py is stopped while its (stand-in) server runs: both have ended afterwards."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "sys.path.append(sys.argv[1])\n"
        "from launcher import commands\n"
        "from launcher.run import hosts, server\n"
        "base = Path(sys.argv[2])\n"
        "host = hosts.Host(base, Path(sys.executable), own=False)\n"
        "def work(*_):\n"
        "    with server.Server(host, base, cpu=True) as run:\n"
        "        print(run._process.pid, flush=True)\n"
        "        time.sleep(60)\n"
        "commands.generate = work\n"
        "sys.exit(commands.main(['demo']))\n"
    )
    (tmp_path / "main.py").write_text(STAND_IN)
    command = [sys.executable, "-c", script, str(paths.ROOT), str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        run.send_signal(getattr(signal, name))
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130 and errors == "stopped.\n"
    assert not running(child)


def running(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def test_a_bar_never_leaves_its_frame():
    assert bar(0, 4, 4) == "[....] 0/4" and bar(4, 4, 4) == "[####] 4/4"
    assert bar(9, 4, 4) == "[####] 9/4" and bar(0, 0, 4) == "[....] 0/0"


def test_training_the_world_passes_everything_on_to_the_host_s_python(monkeypatch):
    from launcher.run import world_training

    ran = []
    host = SimpleNamespace(python=Path("/host/python"), comfyui=Path("/host"))
    monkeypatch.setattr(world_training, "find_host", lambda: host)

    def run(command, cwd, env, check):
        ran.append((command, env["COMFYUI_PATH"]))
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(world_training.subprocess, "run", run)
    assert main(["world", "train", "--background", "--", "--steps", "9"]) == 3
    words = ["-m", "small_world.train", "base", "--background", "--steps", "9"]
    assert ran == [([str(host.python), *words], str(host.comfyui))]
