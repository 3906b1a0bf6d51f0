"""A host keeps the models that it has loaded, as long as jobs with them wait."""

from __future__ import annotations

from craft_lora_pack.cli.queue.hosts.waiting import Waiting, files_of_job
from craft_lora_pack.cli.queue.journal import Journal
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.client.address import Inputs
from fake_comfyui import LORAS, OBJECT_INFO, PROMPT


def jobs(*matrix):
    return jobs_of(Inputs(PROMPT, OBJECT_INFO), [], matrix, [])


def orders(waiting, hosts, sizes):
    """Job by job, each host in turn takes one; host -> the files of its jobs, in their order."""
    took = {host: [] for host in range(hosts)}
    loaded = dict.fromkeys(took, frozenset())
    while waiting:
        for host in took:
            others = [loaded[one] for one in took if one != host]
            job = waiting.take(f"host {host}", loaded[host], others, sizes)
            if job is not None:
                loaded[host] = files_of_job(job)
                took[host].append(loaded[host])
    return took


def changes(files):
    return sum(one != other for one, other in zip(files, files[1:], strict=False))


def test_the_files_of_a_job_are_the_models_that_it_names():
    (job,) = jobs("seed=1")
    assert files_of_job(job) == {LORAS[1], LORAS[2]}


def test_each_host_changes_its_loras_as_rarely_as_there_are_others(tmp_path):
    """Four pairs of LoRAs and four hosts: none loads a second pair while its own lasts."""
    matrix = jobs("seed=1..10", "content=dog,cat", "style=ink,oil")  # a pair changes at each job
    took = orders(Waiting(matrix, Journal(tmp_path, "a")), 4, {})
    assert [len(files) for files in took.values()] == [10] * 4
    assert all(changes(files) == 0 for files in took.values())
    alone = orders(Waiting(matrix, Journal(tmp_path, "a")), 1, {})
    assert changes(alone[0]) == 3


def test_where_a_host_must_change_it_loads_the_smaller_file(tmp_path):
    matrix = jobs("content=dog,cat", "style=ink,oil")
    for large, kept in ((LORAS[1], LORAS[0]), (LORAS[3], LORAS[2])):
        waiting = Waiting(matrix, Journal(tmp_path, "a"))
        loaded = files_of_job(waiting.take("host", frozenset(), [], {}))
        second = waiting.take("host", loaded, [], {large: 7e9})
        assert loaded == {LORAS[0], LORAS[2]} and loaded & files_of_job(second) == {kept}


def test_a_job_left_on_a_server_goes_to_that_one_and_last_to_another(tmp_path):
    matrix, journal = jobs("seed=1..4"), Journal(tmp_path, "a")
    journal.queued(matrix[2], "some-id", "host 1")
    waiting = Waiting(matrix, Journal(tmp_path, "b"))
    assert waiting.take("host 1", frozenset(), [], {}) is matrix[2]
    waiting = Waiting(matrix, Journal(tmp_path, "b"))
    order = [waiting.take("host 2", frozenset(), [], {}) for _ in range(4)]
    assert order == [matrix[0], matrix[1], matrix[3], matrix[2]]
    assert not waiting and waiting.take("host 2", frozenset(), [], {}) is None


def test_a_job_that_is_given_back_comes_next(tmp_path):
    matrix = jobs("seed=1..4")
    waiting = Waiting(matrix, Journal(tmp_path, "a"))
    first = waiting.take("host", frozenset(), [], {})
    waiting.give_back(first)
    assert waiting.take("host", frozenset(), [], {}) is first and len(waiting) == 3
