"""The command line of run.py: parse it, do it, turn every user error into one sentence."""

import argparse
import signal
import sys
import time
import webbrowser
from pathlib import Path

from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.craft_core.errors import BREAKS, CraftError, told

from .errors import LaunchError
from .lasting.soak import run_soak
from .paths import ROOT
from .publish.locales import write_locales
from .publish.pictures import take_pictures
from .publish.release import check_release
from .run.bench import run_benchmark
from .run.generate import generate, open_server
from .run.server import require_port, usual_port
from .run.small_world import add_small_world, own_folder, remove_small_world
from .run.tiers import TIERS, Choice, default_workers, run_fuzz, run_tiers
from .run.world_training import train_world
from .terminal import say
from .versions.host_symbols import write_page
from .versions.matrix import OLDER, oldest_tests, run_matrix, trees

ALL_TIERS = {**TIERS, "oldest": oldest_tests}
DEMO = ROOT / "workflows" / "demo_small_world.json"
INTERRUPTED = 130
EXAMPLES = """examples:
  python run.py demo                 make pictures with the shipped model and two LoRAs
  python run.py host                 the same ComfyUI, left open for you to play with
  python run.py small-world add      put the demo's model into your own ComfyUI (remove: out again)
  python run.py test                 set everything up and run all tests
  python run.py test host -- -x      one tier, with options for pytest
  python run.py test -n 1 --all      one test at a time, and the sweeps that CI leaves out
  python run.py fuzz --minutes 30    damaged files and texts at every place where they come in
  python run.py soak --prompts 500   many prompts in one server: does anything stay behind?

The ComfyUI used is yours if COMFYUI_PATH names it or this folder lies in its custom_nodes
(its Python: COMFYUI_PYTHON, else the one found beside it); nothing is written to it. Otherwise
ComfyUI is set up once in your cache folder, with an environment of its own, for all clones.
"""


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    _end_on_signals()
    arguments, passed_on = _split(arguments)
    chosen = _parser().parse_args(arguments or ["--help"])
    try:
        return chosen.run(chosen, passed_on)
    except (LaunchError, CraftError, RemoteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BREAKS as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return INTERRUPTED


def _end_on_signals() -> None:
    """End as on Ctrl-C when told to end, so that no server is left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those behind `--` (or behind `bench NAME`), which are passed on."""
    if arguments[:1] == ["bench"]:
        return arguments[:2], [argument for argument in arguments[2:] if argument != "--"]
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Content and style LoRAs in ComfyUI.",
        epilog=EXAMPLES,
        formatter_class=plain,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make pictures with the shipped model and LoRAs")
    demo.set_defaults(run=_demo)
    host = commands.add_parser("host", help="start ComfyUI with the packs and leave it open")
    host.add_argument(
        "--port", type=int, help="default: 8288, or any free port while that is in use"
    )
    host.add_argument("--no-browser", action="store_true", help="only print the address")
    host.set_defaults(run=_host)
    flow = commands.add_parser("workflow", help="run a workflow file and save its pictures")
    flow.add_argument("file", type=Path)
    flow.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE")
    flow.add_argument("--output", type=Path, help="default: output/NAME in this folder")
    flow.set_defaults(run=_workflow)
    world = commands.add_parser("small-world", help="put the demo model into your own ComfyUI")
    world.add_argument("what", choices=("add", "remove"))
    world.set_defaults(run=_small_world)
    training = commands.add_parser("world", help="train the demo model further (hours)")
    training.add_argument("what", choices=("train",))
    training.add_argument("--background", action="store_true", help="at the lowest priority")
    training.set_defaults(run=_world)
    test = commands.add_parser("test", help="run the tests (all tiers, or one)")
    test.add_argument("tier", nargs="?", choices=tuple(ALL_TIERS))
    test.add_argument("--all", action="store_true", help="with the sweeps that CI leaves out")
    test.add_argument(
        "-n",
        "--workers",
        type=_count,
        default=default_workers(),
        metavar="N",
        help="test files at a time; default: one a processor, 4 at most (here %(default)s)",
    )
    test.set_defaults(run=_test)
    matrix = commands.add_parser("matrix", help="run the host tests on older ComfyUI versions")
    matrix.add_argument(
        "version", nargs="*", help=f"default: all, {', '.join(host.version for host in OLDER)}"
    )
    matrix.set_defaults(run=_matrix)
    fuzz = commands.add_parser("fuzz", help="damaged files and texts at every door")
    fuzz.add_argument("--minutes", type=float, default=2.0, metavar="N", help="default: 2")
    fuzz.add_argument("--seed", type=int, default=None, metavar="N", help="default: the clock's")
    fuzz.set_defaults(run=_fuzz)
    soak = commands.add_parser("soak", help="many prompts, trainings and interrupts in one server")
    soak.add_argument("--prompts", type=_count, default=500, metavar="N", help="default: 500")
    soak.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    soak.set_defaults(run=_soak)
    bench = commands.add_parser("bench", help="run a benchmark in the host's environment")
    bench.add_argument("name", help="a file of benchmarks/, for example: engine")
    bench.set_defaults(run=_bench)
    locales = commands.add_parser(
        "locales",
        help="write the texts of nodes and page anew, from their sources",
    )
    locales.set_defaults(run=_locales)
    symbols = commands.add_parser(
        "host-symbols", help="write docs/host_symbols.md: what the pack uses of ComfyUI"
    )
    symbols.add_argument(
        "--source",
        action="append",
        default=[],
        type=_source,
        metavar="VERSION=PLACE",
        help="a version to read and not to run: PLACE is a folder of its source, or FOLDER@COMMIT "
        "of a git repository; may be given several times",
    )
    symbols.set_defaults(run=_host_symbols)
    pictures = commands.add_parser("pictures", help="take the pictures of docs and templates anew")
    pictures.add_argument(
        "name", nargs="*", help="only these: a node's id, demo_graph, demo_small_world, ..."
    )
    pictures.set_defaults(run=_pictures)
    release = commands.add_parser("check-release", help="what is left to do before publishing")
    release.set_defaults(run=_check_release)
    return parser


def _demo(_chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    generate(DEMO, ROOT / "output" / "demo")
    say("demo_*: from left to right what the content LoRA learned, what the style LoRA learned,")
    say("        and both together; the four differ in their noise alone")
    say("pairs_*: the content and style pictures, and the pairs made of them")
    say("To change it in the page: python run.py host")
    return 0


def _workflow(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    output = chosen.output or ROOT / "output" / chosen.file.stem
    generate(chosen.file, output, settings=chosen.set)
    return 0


def _host(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    port = usual_port() if chosen.port is None else require_port(chosen.port)
    with open_server(port) as server:
        page = f"{server.url}/?template={DEMO.stem}&source=craft-lora"
        say(f"ComfyUI is open at {page}")
        say("The shipped workflows are in its template browser. Ctrl-C ends it.")
        say(f"Models of your own go into {server.folder / 'models'}")
        say(f"Pictures are saved in {server.folder / 'output'}")
        if not chosen.no_browser:
            webbrowser.open(page)
        try:
            status = server.wait()
        except KeyboardInterrupt:
            say("\nending ComfyUI")
            return 0
        raise LaunchError(f"ComfyUI ended by itself (status {status}).\n{server.log_tail()}")


def _small_world(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    change = add_small_world if chosen.what == "add" else remove_small_world
    change(own_folder())
    return 0


def _world(chosen: argparse.Namespace, passed_on: list[str]) -> int:
    return train_world(chosen.background, passed_on)


def _test(chosen: argparse.Namespace, passed_on: list[str]) -> int:
    choice = Choice(passed_on, workers=chosen.workers, sweeps=chosen.all)
    tiers = {chosen.tier: ALL_TIERS[chosen.tier]} if chosen.tier else ALL_TIERS
    return run_tiers(tiers, choice)


def _matrix(chosen: argparse.Namespace, passed_on: list[str]) -> int:
    return run_matrix(chosen.version, Choice(passed_on, workers=default_workers()))


def _fuzz(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    seed = time.time_ns() % 2**32 if chosen.seed is None else chosen.seed
    say(f"seed {seed}")
    return run_fuzz(chosen.minutes, seed)


def _soak(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    return run_soak(chosen.prompts, chosen.seed)


def _count(text: str) -> int:
    """A whole number from 1 on, of an option."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of workers or prompts; give 1, 2, ..."
    )


def _bench(chosen: argparse.Namespace, passed_on: list[str]) -> int:
    return run_benchmark(chosen.name, passed_on)


def _locales(_chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    with open_server() as server:
        write_locales(server.client.object_info())
    return 0


def _source(text: str) -> tuple[str, str]:
    """VERSION=PLACE of an option."""
    version, _, place = text.partition("=")
    if version.strip() and place and "|" not in version:
        return version.strip(), place
    raise argparse.ArgumentTypeError(f"{text!r} is not VERSION=PLACE, as in 0.33.0=../ComfyUI")


def _host_symbols(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    write_page(trees(), dict(chosen.source))
    return 0


def _pictures(chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    take_pictures(chosen.name)
    return 0


def _check_release(_chosen: argparse.Namespace, _passed_on: list[str]) -> int:
    return check_release()
