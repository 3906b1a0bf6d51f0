"""Damaged inputs in a living ComfyUI: each is answered in words, and the server stays as it was.

    python live.py [--cases N | --minutes N] [--seed N]

The inputs are those of `doors.py`.  Files are put where models lie and texts are typed into nodes;
then a prompt is run, or one of the page's routes is asked.  At the end one prompt gives the picture
it gave at the beginning, bit by bit, the loaded weights are what they were, and memory has not
grown.  COMFYUI_PATH names the ComfyUI, whose Python runs this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LONGEST = 60.0  # seconds on the clock for one prompt, on a busy machine
ASKED = 30.0  # and for a route
SLACK = 64 << 20  # bytes that are no growth
FRESH = ROOT / "small_world" / "models"
CHECKPOINT, LORA = "craft_small_world.safetensors", "craft_small_world_{}.safetensors"
GIVEN = "given.safetensors"
FAILED = "execution_error"  # the host's event
UNFORESEEN = "that was not foreseen"  # in what the boundary around every node says
Prompt = dict[str, dict[str, Any]]
Link = tuple[str, int]


@dataclass
class Live:
    """A server under fuzz. base: its folder. faults: what it did that it must not."""

    server: Any
    base: Path
    faults: list[str] = field(default_factory=list)
    refused: int = 0
    answered: int = 0

    def place(self, folder: str, content: bytes) -> str:
        """Put a file where models lie, as a user replaces one; its name."""
        path = self.base / "models" / folder / GIVEN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_bytes(content)
        os.replace(path.with_suffix(".new"), path)
        return GIVEN

    def prompt(self, name: str, prompt: Prompt) -> None:
        """Run it: it succeeds, or a node of ours says in words why it cannot."""
        from craft_lora_pack.client.errors import RemoteError, ServerGone

        begun, errors = time.monotonic(), []
        try:
            self.server.client.run(prompt, limit=LONGEST, show=lambda *event: errors.append(event))
            self.answered += 1
        except ServerGone as error:
            self._fault(name, f"the server went away: {error}")
        except RemoteError as error:
            self.refused += 1
            self._judge(name, str(error), [data for kind, data in errors if kind == FAILED])
        if time.monotonic() - begun > LONGEST:
            self._fault(name, f"a prompt took {time.monotonic() - begun:.0f} seconds")

    def ask(self, door: str, route: str, **query: str) -> None:
        """Ask a route of the page: its answer is JSON, an error in it is in words."""
        quoted = urllib.parse.urlencode({key: _sendable(text) for key, text in query.items()})
        self._asked(door, lambda: self.server.client.get_json(f"{route}?{quoted}", ASKED))

    def post(self, name: str, route: str, body: bytes) -> None:
        import urllib.request

        request = urllib.request.Request(self.server.url + route, body)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._asked(name, lambda: json.loads(opener.open(request, timeout=ASKED).read()))

    def _asked(self, name: str, ask: Callable[[], Any]) -> None:
        try:
            answer = ask()
        except Exception as error:
            self._fault(name, f"{type(error).__name__}: {error}")
            return
        said = answer.get("error") if isinstance(answer, dict) else None
        self.refused += said is not None
        self.answered += said is None

    def _judge(self, name: str, said: str, failed: list[dict[str, Any]]) -> None:
        from craft_lora_pack.craft_core.errors import MOST, plain

        for data in failed:
            ours = str(data.get("exception_type")).endswith(".CraftError")
            if not ours or UNFORESEEN in said:
                self._fault(name, f"{data.get('exception_type')}: {said}")
        if len(said) > MOST + 500 or said != plain(said, MOST + 500):  # the command adds the node
            self._fault(name, f"{len(said)} characters, or such as no page shows: {said[:300]!r}")

    def _fault(self, name: str, what: str) -> None:
        self.faults.append(f"{name}: {what}")
        print(f"FAULT: {name}: {what}", flush=True)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


# Prompts


def routed(**changes: Any) -> Prompt:
    """A picture of one step by two LoRAs; changes: to the Router's inputs."""
    inputs = {
        "model": ["1", 0], "clip": ["1", 1], "prompt": "<c>a sks animal</c> in <s>zwx style</s>",
        "content_lora": LORA.format("content"), "style_lora": LORA.format("style"),
        "content_strength": 0.75, "style_strength": 0.75, "layer_sets": "all", "method": "craft",
    }  # fmt: skip
    return {
        "1": _node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "4": _node("CRAFTRouter", **{**inputs, **changes}),
        "5": _node("CLIPTextEncode", text="", clip=["1", 1]),
        "6": _node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "7": _node(
            "CRAFTACFGKSampler", model=["4", 0], positive=["4", 1], negative=["5", 0],
            latent_image=["6", 0], seed=1, steps=1, cfg=2.0, sampler_name="euler",
            scheduler="normal", denoise=1.0, asymmetric=True, guidance="acfg/cfg",
        ),
        "8": _node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": _node("PreviewImage", images=["8", 0]),
    }  # fmt: skip


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def with_node(prompt: Prompt, into: str, kind: str, **inputs: Any) -> Prompt:
    """The prompt with one node more, whose output goes into an input of the Router."""
    more = {"2": _node(kind, **inputs), **prompt}
    more["4"]["inputs"][into] = ["2", 0]
    return more


# Doors


def lora(live: Live, content: bytes) -> None:
    name = live.place("loras", content)
    for route in ("lora_info", "trigger_words", "files"):
        live.ask("LoRA files", f"/craft_lora/{route}", name=name)
    live.prompt("LoRA files", routed(content_lora=name))
    live.prompt("LoRA files", routed(content_lora=name, allow_unmatched=True, method="k_lora",
                                     **K_LORA))  # fmt: skip


K_LORA = {
    "method.pattern": "s*", "method.gamma": "shared", "method.alpha": 1.5, "method.beta": 0.5,
    "method.beta_star": 1.3, "method.selection": "top-k", "method.content_share": 1 / 3,
    "method.seed": 0,
}  # fmt: skip


def basis(live: Live, content: bytes) -> None:
    name = live.place("craft_bases", content)
    ranks = {"source": "model input", "source.model": ["1", 0], "which": "both", "strength": 0.5}
    prompt = with_node(routed(), "model", "CRAFTLoadRankLimitedUNet", basis=name, **ranks)
    live.prompt("basis files", prompt)
    prompt["2"]["inputs"]["allow_missing"] = True
    live.prompt("basis files", prompt)


def encoder(live: Live, content: bytes) -> None:
    name = live.place("craft_encoders", content)
    loads = with_node(routed(), "expert_encoder", "CRAFTLoadExpertEncoder", encoder=name)
    live.prompt("encoder files", loads)


def model_file(live: Live, content: bytes) -> None:
    name = live.place("checkpoints", content)
    for route in ("layer_sets", "latent"):
        live.ask("headers of models", f"/craft_lora/{route}", kind="checkpoints", name=name)


def typed(live: Live, content: bytes) -> None:
    live.prompt("prompts", routed(prompt=_text(content)))


def layer_sets(live: Live, content: bytes) -> None:
    custom = {"layer_sets": "custom", "layer_sets.patterns": _text(content)}
    live.prompt("layer sets", routed(**custom, allow_unmatched=True))
    live.ask("layer sets", "/craft_lora/layer_sets", kind="checkpoints", name=CHECKPOINT,
             patterns=_text(content))  # fmt: skip


def rows(live: Live, content: bytes) -> None:
    live.prompt("lists of LoRAs", with_node(routed(), "extra_branches", "CRAFTLoRAList",
                                            loras=_text(content)))  # fmt: skip


def curve(live: Live, content: bytes) -> None:
    try:
        points = json.loads(content)
    except ValueError:
        points = _text(content)
    schedule = {
        "shape": "curve", "shape.content": {"points": points, "interpolation": "linear"},
        "shape.style": {"points": points, "interpolation": "monotone_cubic"},
        "content_floor": 0.5, "style_floor": 0.5, "clock": "steps",
    }  # fmt: skip
    live.prompt("curves", with_node(routed(), "schedule", "CRAFTTimestepSchedule", **schedule))


def preset(live: Live, content: bytes) -> None:
    live.post("presets", "/craft_lora/preset_values", content)


def queries(live: Live, content: bytes) -> None:
    text = _text(content)
    for route in ("files", "lora_info", "trigger_words"):
        live.ask("routes", f"/craft_lora/{route}", name=text)
    live.ask("routes", "/craft_lora/latent", kind=text, name=text)
    live.ask("routes", "/craft_lora/layer_sets", kind="checkpoints", name=text, patterns=text)
    live.ask("routes", "/craft_lora/kept_training", node=text, save_name=text)
    live.ask("routes", "/craft_lora/shown_grid", workflow=text, node=text)
    live.ask("routes", "/craft_lora/workflow", prompt_id=text)


LIVE: dict[str, Callable[[Live, bytes], None]] = {
    "LoRA files": lora, "basis files": basis, "encoder files": encoder,
    "headers of models": model_file, "prompts": typed, "layer sets": layer_sets,
    "lists of LoRAs": rows, "curves": curve, "presets": preset, "routes": queries,
}  # fmt: skip


def given() -> dict[str, list[Any]]:
    """What each gets: sound inputs and damaged ones, as a Door of doors.py has them."""
    from doors import DOORS, PEFT, Door
    from mutations import SoundFile, damaged_file, damaged_json

    def file(folder: str, name: str, **metadata: Any) -> Any:
        sound = SoundFile.of((FRESH / folder / name).read_bytes())
        sound = replace(sound, metadata={**sound.metadata, **metadata})
        return Door(lambda *_: None, damaged_file(sound), [sound.written()])

    def some(*names: str) -> list[Any]:
        return [DOORS[name] for name in names]

    listed = [{"lora": LORA.format(role), "role": role, "strength": 0.5, "on": True,
               "layers": "middle_block.1"} for role in ("content", "style")]  # fmt: skip
    loras = [file("loras", LORA.format(role)) for role in ("content", "style")]
    return {
        "LoRA files": [*loras, file("loras", LORA.format("style"), lora_adapter_metadata=PEFT)],
        "basis files": [file("craft_bases", "craft_small_world_basis.safetensors")],
        "encoder files": [file("craft_encoders", "craft_small_world_encoder.safetensors")],
        "headers of models": [*loras, *some("LoRA files", "training states")],
        "prompts": some("prompts"),
        "layer sets": some("layer sets"),
        "lists of LoRAs": [
            Door(lambda *_: None, damaged_json(listed), [json.dumps(listed).encode()])
        ],
        "curves": some("points"),
        "presets": some("presets"),
        "routes": some("prompts", "layer sets", "matrices"),
    }


FOUND = {"curves": (b"[[]]", b"null", b"3", b'["ab", [0, 1, 2]]')}  # once a raw error


# The run


def examples(doors: list[Any], count: int, seed: int) -> list[bytes]:
    """As many damaged inputs of these doors."""
    import warnings

    import hypothesis
    from hypothesis import strategies as st

    warnings.simplefilter("ignore")
    found: list[bytes] = []

    def note(content: bytes) -> None:
        found.append(content)

    damaged = st.one_of(*(door.damaged for door in doors))
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=(hypothesis.Phase.generate,),
    )  # fmt: skip
    settings(hypothesis.seed(seed)(hypothesis.given(damaged)(note)))()
    return found


def run(live: Live, cases: int, seconds: float, seed: int) -> dict[str, int]:
    """Inputs at every door in turn, until each had so many or time is over; how many each had."""
    counts, doors = dict.fromkeys(LIVE, 0), given()
    end = time.monotonic() + seconds
    for round_number in range(max(1, -(-cases // EACH))):
        for name, door in LIVE.items():
            left = min(EACH, cases - counts[name])
            for content in examples(doors[name], left, seed + round_number) if left > 0 else ():
                if time.monotonic() > end or not live.server.alive():
                    return counts
                counts[name] += 1
                door(live, content)
    return counts


OF_ANOTHER_MODEL = ("headers of models", "routes")  # whose sound inputs may be refused
EACH = 20  # inputs of a door before the next one's turn


def fuzzed(live: Live, cases: int, seconds: float, seed: int) -> dict[str, int]:
    """`run`, between two looks at the server."""
    for name, doors in given().items():
        refused = live.refused
        for content in (one for door in doors for one in door.sound):
            LIVE[name](live, content)  # so that all of it is loaded once
        if live.refused > refused and name not in OF_ANOTHER_MODEL:
            live.faults.append(f"{name}: a sound input is refused")
    for name, contents in FOUND.items():
        for content in contents:
            LIVE[name](live, content)
    before = _look(live)
    counts = run(live, cases, seconds, seed)
    if not live.server.alive():
        live.faults.append(f"the server ended:\n{live.server.log_tail()}")
        return counts
    after = _look(live)
    if before["picture"] != after["picture"]:
        live.faults.append("the same prompt gives another picture than before")
    if before["weights"] != after["weights"]:
        live.faults.append("the loaded weights are others than before")
    grown = after["memory"] - before["memory"]
    if grown > SLACK:
        live.faults.append(f"memory grew by {grown / 1e6:.0f} MB")
    print(f"memory grew by {grown / 1e6:+.0f} MB")
    return counts


def _look(live: Live) -> dict[str, Any]:
    from launcher.lasting.soak import ROUTE

    result = live.server.client.run(routed(), limit=LONGEST)
    files = [hashlib.sha256(live.server.client.fetch(one)).hexdigest() for one in result.files()]
    live.server.client.post_json("/history", {"clear": True})
    return {"picture": files, **live.server.client.ask(ROUTE)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=0, help="for each door; 0: by --minutes")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all doors together")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    sys.path += [str(ROOT), str(HERE), str(ROOT / "tests" / "unit" / "parts")]
    from launcher.pack import as_package

    as_package()
    from launcher.lasting.soak import PROBE
    from launcher.run.hosts import Host
    from launcher.run.server import Server
    from launcher.run.workspace import link, prepare_workspace

    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), own=False)
    with tempfile.TemporaryDirectory(prefix="craft-fuzz-", ignore_cleanup_errors=True) as folder:
        base = prepare_workspace(host, Path(folder))
        link(PROBE, base / "custom_nodes" / "craft_soak_probe")
        for kind in ("loras", "craft_bases", "craft_encoders", "checkpoints"):
            Live(None, base).place(kind, b"")
        with Server(host, base, cpu=True) as server:
            live = Live(server, base)
            counts = fuzzed(live, chosen.cases or 1 << 30, _seconds(chosen), chosen.seed)
    print(f"in a server: {', '.join(f'{name} {count}' for name, count in counts.items())} inputs; "
          f"{live.answered} answers, {live.refused} refusals in words")  # fmt: skip
    print(f"FAILED: {len(live.faults)} faults" if live.faults else "The server is as it was.")
    return bool(live.faults)


def _seconds(chosen: argparse.Namespace) -> float:
    return 1e9 if chosen.cases else 60 * chosen.minutes


if __name__ == "__main__":
    sys.exit(main())
