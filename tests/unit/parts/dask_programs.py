"""What tests beside real Dask programs share."""

import time

JOBS = ["--matrix", "content=dog,cat", "seed=101..200"]


def until(what, seconds=240.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
