"""What the benchmark of memory says of pictures that should be the same."""

import math

from benchmarks.parts.verdict import complaints


def test_ways_that_ran_and_differ_by_no_more_than_allowed_are_fine():
    assert complaints({"all": 0.0, "legacy": 2e-5}, 2e-5) == []


def test_a_way_that_did_not_run_or_differs_is_named():
    found = complaints({"all": 0.0, "legacy": 3e-5, "dynamic": None, "other": math.nan}, 2e-5)
    assert [line.split()[0] for line in found] == ["legacy", "dynamic", "other"]
    assert "did not run" in found[1]
    assert "3.0e-05" in found[0] and "2.0e-05" in found[0] and "nan" in found[2]
