"""Measures pgqueue beside its peers: ``python -m benchmarks SCENARIO [--contestants a,b] [--json]``.

SCENARIO is one or more names, or ``all``; ``report`` writes the published pages from what was measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import Any

from benchmarks import report, results, scenarios
from benchmarks.contestants import CONTESTANTS
from benchmarks.measurement import Measurement
from benchmarks.servers import postgres, redis
from benchmarks.stage import Stage


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"scenarios: {', '.join(scenarios.NAMES)}\ncontestants: {', '.join(CONTESTANTS)}",
    )  # fmt: skip
    parser.add_argument("scenario", nargs="+", metavar="SCENARIO")
    parser.add_argument(
        "--contestants", metavar="A,B", help="only these; default: all that can run"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every figure")
    parser.add_argument("--scale", choices=("tiny", "quick", "full"), default="quick",
                        help="sizes and times; only full gives figures worth publishing")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    chosen = parser.parse_args()
    known = {*scenarios.NAMES, "all", "report"}
    for name in chosen.scenario:
        if name not in known:
            parser.error(f"no scenario {name!r}: choose from {', '.join(sorted(known))}")
    chosen.names = chosen.contestants.split(",") if chosen.contestants else list(CONTESTANTS)
    for name in chosen.names:
        if name not in CONTESTANTS:
            parser.error(f"no contestant {name!r}: choose from {', '.join(CONTESTANTS)}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def main() -> int:
    """Measure, print, keep; exit code 1 when a run was no result."""
    chosen = arguments()
    if chosen.scenario == ["report"]:
        report.publish()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    names = scenarios.NAMES if "all" in chosen.scenario else tuple(chosen.scenario)
    everything: list[Measurement] = []
    with postgres() as server, redis() as memory:
        stage = Stage(server, memory, tuple(chosen.names), chosen.rounds, chosen.scale)
        for name in names:
            begun = time.monotonic()
            measure, _ = scenarios.load(name)
            measured = measure(stage)
            seconds = time.monotonic() - begun
            print(f"{name}: {seconds:.0f} s", file=sys.stderr)
            everything += measured
            results.save(name, stage.about(), measured, seconds)
        about = stage.about()
    show(about, everything, as_json=chosen.json)
    return 1 if any(measurement.faults for measurement in everything) else 0


def show(about: dict[str, Any], measured: list[Measurement], *, as_json: bool) -> None:
    """The results on standard output."""
    if as_json:
        print(json.dumps({"about": about, "measurements": [m.as_json() for m in measured]}))
        return
    for key, value in about.items():
        print(f"{key}: {value}")
    print(report.text(measured))


if __name__ == "__main__":
    sys.exit(main())
