"""The clock by which a worker judges its leases."""

from __future__ import annotations

import time
from functools import partial

_ID = getattr(time, "CLOCK_BOOTTIME", None)  # of Linux

seconds = time.monotonic if _ID is None else partial(time.clock_gettime, _ID)
"""Monotonic seconds that go on while the machine is suspended, as those of the database do."""
