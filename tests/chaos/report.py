"""The figures of a run, as one object and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.ledger import FINISHED, MUST_BE_ZERO, Faults, History, judge, ran_again
from tests.chaos.recovery import recovery

EXAMPLES = 20
RERUN_GRACE = 20.0


class Tally:
    """Counts over all histories, read once."""

    def __init__(self, histories: Iterable[History], faults: Faults | None = None) -> None:
        self._faults = faults
        self.enqueued: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.found: Counter[str] = Counter(dict.fromkeys(MUST_BE_ZERO, 0))
        self.examples: list[str] = []
        self.again: defaultdict[tuple[str, bool], list[float]] = defaultdict(list)
        self.runs = self.lapsed = 0
        for history in histories:
            self._add(history)

    def _add(self, history: History) -> None:
        self.enqueued[history.fate] += 1
        if history.status in FINISHED:
            self.finished[str(history.status)] += 1
        self.runs += len(history.starts)
        self.lapsed += sum(o.lapsed and o.became not in FINISHED for o in history.outcomes)
        for worker, at, last_chance in ran_again(history):
            self.again[worker, last_chance].append(at)
        for finding in judge(history, self._faults):
            self.found[finding] += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"{finding}: {history}")


def report(
    tally: Tally, faults: Sequence[Fault], finished: Mapping[int, int], *, calm: float,
    ended: float, lease: float, gave_up: Sequence[str], settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The whole run as one object."""
    return {
        "enqueued": sum(tally.enqueued.values()) - tally.enqueued["rolled back"],
        "commit_unknown": tally.enqueued["unknown"],
        "rolled_back": tally.enqueued["rolled back"],
        "finished": sum(tally.finished.values()),
        "statuses": dict(tally.finished),
        "runs": tally.runs,
        "lapsed_leases": tally.lapsed,
        **{name: tally.found[name] for name in MUST_BE_ZERO},
        "workers_gave_up": len(gave_up),
        "jobs_per_s": round(calm),
        "faults": len(faults),
        "recovery": recoveries(faults, finished, calm, ended),
        "killed_jobs_ran_again_s": summary(again(tally, faults, last_chance=False)),
        "last_chances_ran_again_s": summary(again(tally, faults, last_chance=True)),
        "killed_jobs_ran_again_within_s": lease + RERUN_GRACE,
        "examples": [*tally.examples, *gave_up],
        "settings": {**settings, **versions()},
    }


def again(tally: Tally, faults: Sequence[Fault], *, last_chance: bool) -> list[float]:
    """For each killed worker, the seconds until the last of its jobs had been started again."""
    return [
        max(tally.again[worker, last_chance]) - fault.since
        for fault in faults
        if fault.kind == "kill"
        for worker in fault.workers
        if tally.again[worker, last_chance]
    ]


def recoveries(
    faults: Sequence[Fault], finished: Mapping[int, int], calm: float, ended: float
) -> dict[str, dict[str, Any]]:
    """By kind of fault, the seconds until the throughput was back at 95 %."""
    times: defaultdict[str, list[float | None]] = defaultdict(list)
    for fault in faults:
        times[fault.kind].append(recovery(finished, fault.since, calm=calm, until=ended))
    return {
        kind: {**summary([s for s in each if s is not None]), "not_back": each.count(None)}
        for kind, each in sorted(times.items())
    }


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, median and worst of some seconds."""
    return {
        "count": len(seconds),
        "median": round(statistics.median(seconds), 2) if seconds else None,
        "worst": round(max(seconds), 2) if seconds else None,
    }


def failed(result: Mapping[str, Any]) -> list[str]:
    """What must be 0 and is not."""
    return [name for name in (*MUST_BE_ZERO, "workers_gave_up") if result[name]]


def versions() -> dict[str, Any]:
    packages = ("pgqueue-postgres", "asyncpg", "psycopg")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{result[name]:>11,}  {name.replace('_', ' ')}"
        for name in ("enqueued", "finished", "rolled_back", "commit_unknown", "runs",
                     "lapsed_leases", "jobs_per_s")
    ]  # fmt: skip
    lines += [f"{result[name]:>11,}  {text}" for name, text in MUST_BE_ZERO.items()]
    lines.append(
        f"{result['workers_gave_up']:>11,}  worker processes that ended unasked, or did not end"
    )
    lines += ["", f"{'fault':<14}{'times':>6}{'median s':>10}{'worst s':>10}   back to 95 %"]
    for kind, each in result["recovery"].items():
        missing = f"   {each['not_back']} not back" if each["not_back"] else ""
        lines.append(
            f"{kind:<14}{each['count']:>6}{_s(each['median'])}{_s(each['worst'])}{missing}"
        )
    for name, label, note in (
        ("killed_jobs_ran_again_s", "jobs of killed",
         f"ran again (wanted: {result['killed_jobs_ran_again_within_s']:g})"),
        ("last_chances_ran_again_s", "last chances", "ran again, one by one, alone"),
    ):  # fmt: skip
        each = result[name]
        lines.append(
            f"{label:<14}{each['count']:>6}{_s(each['median'])}{_s(each['worst'])}   {note}"
        )
    lines += result["examples"]
    return "\n".join(lines)


def _s(seconds: float | None) -> str:
    return f"{'-' if seconds is None else format(seconds, '.2f'):>10}"
