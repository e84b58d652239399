"""What a call costs: the time of the processor and the memory, of this thread, whatever else runs here."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

# What no argument within the limits of size may cost a worker or a command.
SECONDS = 1.0
MEGABYTES = 100.0
TRIES = 5


def assert_quick(call: Callable[[], Any], *, share: float = 1.0) -> None:
    """Run it in this share of the time allowed.

    A busy machine makes a call look slower than it is, never faster: the fastest of a few counts.
    """
    for _ in range(TRIES):
        began = time.thread_time()
        call()
        if (took := time.thread_time() - began) < SECONDS * share:
            return
    raise AssertionError(f"{took:.2f} s, at most {SECONDS * share} s")


def assert_small(call: Callable[[], Any], *, share: float = 1.0) -> None:
    """Run it in this share of the memory allowed; tracing makes it many times slower."""
    tracemalloc.start()
    try:
        call()
        assert tracemalloc.get_traced_memory()[1] / 1e6 < MEGABYTES * share
    finally:
        tracemalloc.stop()
