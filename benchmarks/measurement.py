"""One measured figure over the rounds of a run, and the arithmetic on it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """``values`` has one figure per round, in ``unit``; a round that was no result is in ``faults``."""

    scenario: str
    contestant: str
    case: str
    metric: str
    unit: str
    values: tuple[float, ...]
    faults: tuple[str, ...] = ()

    @property
    def median(self) -> float | None:
        """None when no round gave a result."""
        return statistics.median(self.values) if self.values else None

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def as_json(self) -> dict[str, Any]:
        """A plain object, with the median for readers that do not compute it."""
        return {**asdict(self), "median": self.median}


def from_json(raw: dict[str, Any]) -> Measurement:
    """The inverse of ``as_json``."""
    given = {key: value for key, value in raw.items() if key != "median"}
    given["values"], given["faults"] = tuple(given["values"]), tuple(given["faults"])
    return Measurement(**given)


@dataclass(slots=True)
class Collector:
    """Gathers the figures of the rounds of one scenario by contestant and case."""

    scenario: str
    _values: dict[tuple[str, str, str, str], list[float]] = field(default_factory=dict)
    _faults: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, contestant: str, case: str, metric: str, unit: str, value: float) -> None:
        """One figure of one round."""
        self._values.setdefault((contestant, case, metric, unit), []).append(value)

    def fault(self, contestant: str, case: str, what: str) -> None:
        """A round that is no result, and why."""
        self._faults.setdefault((contestant, case), []).append(what)

    def measurements(self) -> list[Measurement]:
        """Everything gathered; a case without any result has one entry without values."""
        found = [
            Measurement(self.scenario, c, case, metric, unit, tuple(values),
                        tuple(self._faults.get((c, case), ())))
            for (c, case, metric, unit), values in self._values.items()
        ]  # fmt: skip
        with_result = {(m.contestant, m.case) for m in found}
        found += [
            Measurement(self.scenario, c, case, "none", "", (), tuple(faults))
            for (c, case), faults in self._faults.items()
            if (c, case) not in with_result
        ]
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the least value with at least ``share`` (0 to 1) at or below it.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = max(-int(-share * len(ordered) // 1), 1)
    return ordered[rank - 1]


def beside(values: Sequence[float], others: Sequence[float], at: int, each: int) -> float:
    """The median of values, each over the mean of what was measured just before and just after it.

    Args:
        others: ``each`` of them a round; numbers ``at`` and ``at + 1`` stand around the value of their round.

    Raises:
        LookupError: a round lacks some of them.
    """
    if not values or len(others) != each * len(values):
        raise LookupError("rounds without a result")
    pairs = [others[each * number + at : each * number + at + 2] for number in range(len(values))]
    return statistics.median(
        value / statistics.mean(pair) for value, pair in zip(values, pairs, strict=True)
    )


def windows(starts: Iterable[float], begin: float, width: float) -> list[float]:
    """Starts per second in each whole window of ``width`` seconds from ``begin`` on."""
    at = [int((start - begin) // width) for start in starts if start >= begin]
    whole = max(at, default=0)
    counts = [0] * whole
    for window in at:
        if window < whole:
            counts[window] += 1
    return [count / width for count in counts]
