"""What the thread that decides makes of the answers: whatever a host does, in whatever order."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

import pytest
from craft_lora_pack.cli.queue.hosts import batch
from craft_lora_pack.cli.queue.hosts.batch import MOST_LOSSES, HostsBatch
from craft_lora_pack.cli.queue.hosts.host import Does, FleetHost
from craft_lora_pack.cli.queue.journal import Journal
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.client.address import Inputs
from craft_lora_pack.client.errors import RemoteError, ServerGone
from craft_lora_pack.client.near import jobs as beside
from fake_comfyui import OBJECT_INFO, PROMPT, picture

PATIENT = 30.0


class Door:
    """A server that tells what all tell and draws a picture of the seed. before: called with the
    number of each job before it is drawn. queues: behind how many a job says to wait, in turn."""

    def __init__(self, name, before=lambda number: None, queues=(0,)):
        self.name, self.before, self.ran = name, before, []
        self.queues = queues
        self.began = threading.Semaphore(0)

    def aside(self, function, *given):
        assert function is beside.facts_here
        told = {"facts": {"ComfyUI": "1"}, "sizes": {}, "free": 0.0, "info": {}}
        return told | {"place": self.name}

    def call(self, function, *given, key="", tells=None):
        seed = given[1]["2"]["inputs"]["seed"]
        for ahead in self.queues:
            tells(ahead)
        self.ran.append(seed)
        self.began.release()
        self.before(len(self.ran))
        return [("3", {"filename": "x_1.png", "type": "output"}, picture(seed))]


class Fleet:
    patience, wanted = PATIENT, "a door"

    def __init__(self, *doors):
        self._doors = {door.name: door for door in doors}

    def present(self):
        return self._doors


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batch, "TICK", 0.01)
    monkeypatch.setattr(batch, "RETURNS", 0.02)
    monkeypatch.setattr(batch, "COMPARES", 0.05)


@pytest.fixture
def run(tmp_path):
    """Run jobs of seeds 1..n on doors; how many were done, had been, and failed."""

    def go(seeds, *doors):
        jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], [f"seed=1..{seeds}"], [])
        journal = Journal(tmp_path, "me")
        counts = HostsBatch(Fleet(*doors), journal, tmp_path, "demo", lambda _: None).run(jobs)
        return counts.done, counts.skipped, counts.failed

    return go


def fails(number):
    raise RemoteError("no such LoRA.")


def goes(number):
    raise ServerGone("it ended.")


def sleeps(number):
    if number == 1:
        time.sleep(0.4)


@pytest.mark.parametrize("error", [MemoryError("full"), OSError(28, "No space"), KeyError("x")])
def test_whatever_ends_a_call_is_an_answer(error):
    def breaks(*_, **__):
        raise error

    door, answers = Door("a"), SimpleQueue()
    door.call = breaks
    host = FleetHost("a", door, answers)
    host.order(beside.cancel)
    whose, answer = answers.get(timeout=PATIENT)
    assert whose is host and isinstance(answer, RemoteError)
    assert type(error).__name__ in str(answer)


def test_a_call_that_breaks_fails_its_job_alone(run, capsys):
    def breaks(number):
        if number == 2:
            raise MemoryError("full")

    assert run(4, Door("a", breaks)) == (3, 0, 1)
    assert "MemoryError: full" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, MOST_LOSSES])
@pytest.mark.parametrize("ends", [fails, goes])
def test_a_slower_host_that_makes_the_first_job_counts(run, ends, number):
    """However long the others have waited, and however many went away."""
    slow = Door("slow", sleeps)
    assert run(4, slow, *(Door(f"other {n}", ends) for n in range(number))) == (4, 0, 0)


def test_pictures_of_the_folder_are_waited_for(run, monkeypatch):
    assert run(2, Door("old")) == (2, 0, 0)
    new, old = Door("new"), Door("old", sleeps)
    other = new.call
    new.call = lambda function, *given, **more: (
        [("3", {"filename": "x_1.png"}, picture(99))]
        if function is beside.run
        else other(function, *given, **more)
    )
    assert run(4, new, old) == (2, 2, 0)


def test_the_first_jobs_files_are_held_once_and_not_after_it(tmp_path):
    """However many hosts made it, and none where the folder has them."""
    jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1..2"], [])
    held = []

    class Watched(HostsBatch):
        def _compare(self):
            waiting = [one for one in self._hosts.values() if one.does is Does.WAITS]
            held.append((len(waiting), len({id(one.made) for one in waiting if one.made})))
            super()._compare()

    for done, seeds in ((0, jobs[:1]), (1, jobs)):
        held.clear()
        doors = [Door(f"{n}") for n in range(4)]
        journal = Journal(tmp_path, "me")
        Watched(Fleet(*doors), journal, tmp_path, "demo", lambda _: None).run(seeds)
        assert max(held)[0] and max(most for _, most in held) == 1 - done


def test_a_first_job_that_fails_everywhere_counts_as_failed(run):
    def once(number):
        if number == 1:
            fails(number)

    assert run(3, Door("a", once), Door("b", once)) == (2, 0, 1)


def test_a_host_that_went_away_in_its_trials_runs_jobs_when_it_is_back(run):
    """After the choice the job of the trials is done: it neither fails nor changes."""
    sound, flaky = Door("sound"), Door("flaky")
    chosen, back = threading.Event(), threading.Event()

    def stays(number):
        if number == 2:
            chosen.set()
            assert back.wait(PATIENT)

    def returns(number):
        if number <= MOST_LOSSES:
            assert chosen.wait(PATIENT)
            goes(number)
        if number > MOST_LOSSES + 1:  # the first after the trial that ended well
            back.set()

    sound.before, flaky.before = stays, returns
    assert run(6, sound, flaky) == (6, 0, 0)
    assert flaky.ran[: MOST_LOSSES + 1] == [1] * (MOST_LOSSES + 1)


@pytest.fixture
def shown(monkeypatch):
    """What the bar says beside the jobs, and whether at once."""
    said = []

    class Bar(batch.Display):
        def show(self, ended, running, now=False):
            said.append((running, now))
            super().show(ended, running, now)

    monkeypatch.setattr(batch, "Display", Bar)
    return said


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ((0,), set()),
        ((3, 3, 1, 0, 0), {"waiting behind 3 jobs", "waiting behind 1 job"}),
        ((2,), {"waiting behind 2 jobs"}),  # the job ends before another event is told
    ],
)
def test_the_bar_says_which_hosts_wait_behind_how_many(run, shown, queues, words):
    assert run(3, Door("busy", queues=queues), Door("free")) == (3, 0, 0)
    waiting = {part for running, _ in shown for part in running.split("; ") if "behind" in part}
    assert waiting == {f"busy: {one}" for one in words}
    assert any(now for running, now in shown if "busy" in running) is bool(words)
    assert "behind" not in shown[-1][0] and not any("on 0 servers;" in said for said, _ in shown)
