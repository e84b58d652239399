"""How long until the throughput was back. Pure but for ``finished_per_tenth``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import psycopg

BINS = 10  # a second
SHARE = 0.95


def throughput(finished: Mapping[int, int], first: float, last: float) -> float:
    """Jobs finished per second between two moments: the median of its whole seconds.

    ``finished`` counts by tenth of a second since the epoch.
    """
    starts = range(math.ceil(first * BINS), math.floor(last * BINS) - BINS + 1, BINS)
    return statistics.median([_second(finished, start) for start in starts] or [0])


def recovery(
    finished: Mapping[int, int], since: float, *, calm: float, until: float
) -> float | None:
    """Seconds from ``since`` to the first second with 95 % of the ``calm`` throughput.

    None: not back by ``until``.
    """
    start = math.ceil(since * BINS)
    for tenth in range(start, math.floor(until * BINS) - BINS + 1):
        if _second(finished, tenth) >= SHARE * calm:
            return max(0.0, tenth / BINS - since)
    return None


def _second(finished: Mapping[int, int], start: int) -> int:
    return sum(finished.get(tenth, 0) for tenth in range(start, start + BINS))


def finished_per_tenth(dsn: str) -> dict[int, int]:
    """Jobs that succeeded, by tenth of a second since the epoch."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "select floor(at * 10)::bigint, count(*) from chaos.outcomes"
            " where became = 'succeeded' group by 1"
        ).fetchall()
    return dict(rows)  # type: ignore[arg-type]
