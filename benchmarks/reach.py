"""The targets, each computed from what was measured. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.contestants import PEERS, REFERENCES
from benchmarks.measurement import Measurement, beside

FULL = ("due", "future", "finished")  # kinds of rows of the backlog scenario, in its order


class Figures:
    """Medians by scenario, contestant, case and metric."""

    def __init__(self, measured: Iterable[Measurement]) -> None:
        self._found = list(measured)

    def get(self, scenario: str, contestant: str, case: str, metric: str = "rate") -> float:
        """One median.

        Raises:
            LookupError: it was not measured, or no round gave a result.
        """
        for m in self._found:
            key = (m.scenario, m.contestant, m.case, m.metric)
            if key == (scenario, contestant, case, metric) and m.median is not None:
                return m.median
        raise LookupError(f"{scenario}: {contestant} {case} {metric}")

    def over(
        self, scenario: str, names: Iterable[str], metric: str = "rate", case: str = ""
    ) -> list[float]:
        """The medians of these contestants, of every case or the one given.

        Raises:
            LookupError: there is none.
        """
        wanted = set(names)
        found = [
            m.median for m in self._found
            if m.scenario == scenario and m.contestant in wanted and m.metric == metric
            and case in ("", m.case) and m.median is not None
        ]  # fmt: skip
        if not found:
            raise LookupError(f"{scenario}: {', '.join(sorted(wanted))}")
        return found

    def cases(self, scenario: str, contestant: str, metric: str) -> dict[str, float]:
        """Medians by case."""
        return {
            m.case: m.median
            for m in self._found
            if (m.scenario, m.contestant, m.metric) == (scenario, contestant, metric)
            and m.median is not None
        }

    def rounds(self, scenario: str, contestant: str, metric: str) -> dict[str, tuple[float, ...]]:
        """What each round gave, in order, by case."""
        return {
            m.case: m.values
            for m in self._found
            if (m.scenario, m.contestant, m.metric) == (scenario, contestant, metric)
        }


@dataclass(frozen=True, slots=True)
class Target:
    """``at_least`` or ``at_most`` a bound; ``compute`` may raise LookupError."""

    what: str
    bound: float
    compute: Callable[[Figures], float]
    at_most: bool = False
    unit: str = ""

    def row(self, figures: Figures) -> tuple[str, float | None, str, str]:
        """(what, measured, target, "met", "not met" or "not measured")."""
        target = f"{'at most' if self.at_most else 'at least'} {self.bound:g} {self.unit}".strip()
        try:
            value = self.compute(figures)
        except LookupError:
            return self.what, None, target, "not measured"
        met = value <= self.bound if self.at_most else value >= self.bound
        return self.what, value, target, "met" if met else "not met"


def _ratio(
    scenario: str, case: str, of: str, other: str = "pgqueue", metric: str = "rate"
) -> Callable[[Figures], float]:
    return lambda f: f.get(scenario, "pgqueue", case, metric) / f.get(scenario, other, of, metric)


def _own(scenario: str, case: str, metric: str) -> Callable[[Figures], float]:
    return lambda f: f.get(scenario, "pgqueue", case, metric)


def _lead(names: Iterable[str]) -> Callable[[Figures], float]:
    return lambda f: max(f.over("drain", ["pgqueue"])) / max(f.over("drain", names))


def _holds(figures: Figures) -> float:
    """The total at most workers and more, over the best with fewer: the least such ratio over processes."""
    rates = figures.cases("drain", "pgqueue", "rate")
    by_workers = [
        max(rate for case, rate in rates.items() if case.startswith(f"{workers} x "))
        for workers in (1, 2, 8, 32)
        if any(case.startswith(f"{workers} x ") for case in rates)
    ]
    if len(by_workers) < 2:
        raise LookupError("one number of workers only")
    return min(later / max(by_workers[: at + 1]) for at, later in enumerate(by_workers[1:]))


def _backlog(kind: str, metric: str) -> Callable[[Figures], float]:
    def compute(figures: Figures) -> float:
        cases = figures.rounds("backlog", "pgqueue", metric)
        full = [values for case, values in cases.items() if case.endswith(f" {kind}")]
        if not full:
            raise LookupError(kind)
        return beside(full[0], cases["empty table"], FULL.index(kind), len(FULL) + 1)

    return compute


def _grown(what: str) -> Callable[[Figures], float]:
    return _ratio("steady", "2000/s, quarter 4", "2000/s, quarter 2", metric=what)


def _enqueue(case: str) -> Target:
    return Target(
        f"enqueue one ({case}) / bare INSERT",
        0.7,
        _ratio("enqueue", f"one, {case}", f"one, {case}", "bare"),
    )


def _best_latency(metric: str) -> Callable[[Figures], float]:
    return lambda f: (
        f.get("latency", "pgqueue", "20/s", metric) / min(f.over("latency", PEERS, metric, "20/s"))
    )


TARGETS = (
    Target("drain 1 x 100 / bare SQL", 0.6, _ratio("drain", "1 x 100", "1 x 100", "bare")),
    Target("drain 1 x 500 / bare SQL", 0.6, _ratio("drain", "1 x 500", "1 x 500", "bare")),
    Target("drain 2 x 500 / 1 x 500", 1.15, _ratio("drain", "2 x 500", "1 x 500")),
    Target("drain / the fastest peer on PostgreSQL", 2, _lead(PEERS)),
    Target("drain / awa", 5, _lead(["awa"])),
    Target("drain / procrastinate", 30, _lead(["procrastinate"])),
    Target("drain / the fastest on Redis", 8, _lead(REFERENCES)),
    Target("CPU of the worker, 1 x 100", 40, _own("drain", "1 x 100", "worker CPU"), True, "µs/job"),
    Target("CPU of the server, 1 x 100", 40, _own("drain", "1 x 100", "server CPU"), True, "µs/job"),
    Target("drain 1 x 1 / single-row updates, the same driver", 0.5, _ratio("drain", "1 x 1", "single-row updates", "bare")),
    Target("drain 1 x 1 / single-row updates, pgbench", 0.5, _ratio("drain", "1 x 1", "single-row updates", "pgbench")),
    Target("from 1 to 32 workers, worst / best so far", 0.9, _holds),
    Target("thread jobs / async", 0.5, _ratio("kinds", "thread", "noop")),
    Target("process jobs / async", 0.1, _ratio("kinds", "process", "noop")),
    Target("latency at 20/s, p50 / the best peer", 1, _best_latency("p50"), True),
    Target("latency at 20/s, p99 / the best peer", 1, _best_latency("p99"), True),
    Target("latency at 20/s, p50 / saq", 2, _ratio("latency", "20/s", "20/s", "saq", "p50"), True),
    Target("latency at half of the most, p99", 50, _own("latency", "half of the most", "p99"), True, "ms"),
    *map(_enqueue, ("async", "async, caller's transaction", "sync", "sync, caller's transaction")),
    Target("enqueue 50,000 (async) / bare COPY", 0.6, _ratio("enqueue", "50,000, async", "50,000, async", "bare")),
    Target("enqueue 50,000 (sync) / bare COPY", 0.6, _ratio("enqueue", "50,000, sync", "50,000, sync", "bare")),
    Target("16 producers, notifications on / off", 0.9,
           _ratio("producers", "16 producers, notifications on", "16 producers, notifications off")),
    Target("held snapshot, at its end / before", 0.95, _ratio("snapshot", "held, last tenth", "before")),
    Target("held snapshot, claim p99 / before", 2, _ratio("snapshot", "held", "before", metric="claim p99"), True),
    Target("steady state, heap of the last quarter / the second", 1.1, _grown("heap"), True),
    Target("steady state, indexes of the last quarter / the second", 1.1, _grown("indexes"), True),
    *(Target(f"rate with many {kind} rows / empty", 0.95, _backlog(kind, "rate"))
      for kind in FULL),
    *(Target(f"buffers with many {kind} rows / empty", 1.1, _backlog(kind, "buffers"), True)
      for kind in FULL),
    Target("jobs to dead / succeeding", 0.4, _ratio("failing", "dead", "noop")),
    Target("attempts of retried jobs / succeeding", 0.4, lambda f: 2 * _ratio("failing", "retried", "noop")(f)),
    Target("WAL, 64 B, kept", 1600, _own("sizes", "64 B, kept", "WAL"), True, "bytes/job"),
    Target("WAL, 64 B, deleted", 1100, _own("sizes", "64 B, deleted", "WAL"), True, "bytes/job"),
    Target("memory of an idle worker", 60, _own("footprint", "idle", "memory"), True, "MB"),
    Target("memory at 500 jobs held", 150, _own("footprint", "500 jobs held", "memory"), True, "MB"),
    Target("connections of a worker", 4, _own("footprint", "500 jobs held", "connections"), True),
    Target("first job after the start", 700, _own("footprint", "start", "first job"), True, "ms"),
    Target("pgqueue --help", 200, _own("footprint", "--help", "time"), True, "ms"),
)  # fmt: skip
