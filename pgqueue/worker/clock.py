"""The clock by which a worker judges its leases."""

from __future__ import annotations

import time

_ID = getattr(time, "CLOCK_BOOTTIME", None)  # of Linux


def seconds() -> float:
    """Monotonic seconds that go on while the machine is suspended, as those of the database do."""
    return time.monotonic() if _ID is None else time.clock_gettime(_ID)
