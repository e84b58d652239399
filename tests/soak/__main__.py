"""``python -m tests.soak --minutes 5``: a table, and one JSON object on the last line."""

from __future__ import annotations

import argparse
import json
import sys

from pgqueue import schema
from pgqueue.connect import libpq_dsn
from pgqueue.embedded import embedded_postgres
from tests.soak.run import soak
from tests.soak.samples import BOUNDS, LIMITS, complaints, growth, table

SETTINGS = {"fsync": "off", "shared_buffers": "256MB", "max_wal_size": "2GB"}


def main() -> int:
    """0 when nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=500, help="jobs enqueued a second")
    parser.add_argument("--dsn", help="an empty database; default: an embedded server")
    chosen = parser.parse_args()
    if chosen.dsn:
        schema.upgrade(chosen.dsn)
        samples = soak(libpq_dsn(chosen.dsn), seconds=chosen.minutes * 60, rate=chosen.rate)
    else:
        with embedded_postgres(settings=SETTINGS) as dsn:
            schema.upgrade(dsn)
            samples = soak(dsn, seconds=chosen.minutes * 60, rate=chosen.rate)
    wrong = complaints(samples, only_counts=False)
    print(table(samples))
    for line in wrong:
        print(line)
    print(json.dumps({
        "ok": not wrong, "minutes": chosen.minutes, "rate": chosen.rate,
        "finished": samples[-1].finished, "growth_per_minute": growth(samples),
        "bounds_per_minute": BOUNDS, "limits": LIMITS, "complaints": wrong,
    }))  # fmt: skip
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
