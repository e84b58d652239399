"""The scenarios by name, in the order ``all`` runs them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.stage import Stage

NAMES = (
    "drain", "latency", "enqueue", "kinds", "sizes", "failing", "queues", "producers", "footprint",
    "rescue", "steady", "backlog", "snapshot",
)  # fmt: skip


def load(name: str) -> tuple[Callable[[Stage], list[Measurement]], str]:
    """(the function that measures, what its figures mean and do not mean)."""
    module = import_module(f"benchmarks.scenarios.{name}")
    return module.measure, (module.__doc__ or "").strip()
