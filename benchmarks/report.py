"""The published pages, made from the measured figures and from nothing else."""

from __future__ import annotations

from benchmarks.measurement import Measurement


def number(value: float | None) -> str:
    """Three figures are enough."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(measurement: Measurement) -> str:
    """The median and, when there were several rounds, the spread."""
    if measurement.median is None:
        return "no result"
    shown = number(measurement.median)
    if len(measurement.values) > 1:
        shown += f" ({number(measurement.low)} - {number(measurement.high)})"
    return shown


def text(measured: list[Measurement]) -> str:
    """Tables for a terminal."""
    lines = []
    for scenario in dict.fromkeys(m.scenario for m in measured):
        lines.append(f"\n{scenario}")
        for row in table([m for m in measured if m.scenario == scenario]):
            lines.append("  " + "  ".join(f"{cell_:<22}" for cell_ in row).rstrip())
    return "\n".join(lines)


def table(measured: list[Measurement]) -> list[list[str]]:
    """Rows of cells, the first the heading: contestant, case, one column per metric, faults."""
    columns = list(dict.fromkeys((m.metric, m.unit) for m in measured if m.values))
    heading = ["", "case", *(f"{metric}, {unit}" for metric, unit in columns)]
    rows = [heading]
    for contestant, case in dict.fromkeys((m.contestant, m.case) for m in measured):
        mine = [m for m in measured if (m.contestant, m.case) == (contestant, case)]
        by_column = {(m.metric, m.unit): m for m in mine}
        shown = [cell(by_column[c]) if c in by_column else "" for c in columns]
        faults = dict.fromkeys(fault for m in mine for fault in m.faults)
        if faults:
            shown = shown or [""]
            shown[0] += f" [{len(mine[0].faults)} no result: {'; '.join(faults)[:120]}]"
        rows.append([contestant, case, *shown])
    return rows


def publish() -> None:
    raise NotImplementedError
