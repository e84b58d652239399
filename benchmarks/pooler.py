"""What PgBouncer costs a worker: ``python -m benchmarks.pooler``.

Drains the same jobs on one server directly and through PgBouncer, by turns; medians, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from benchmarks.smoke import SETTINGS, drain, fill
from pgqueue import schema
from pgqueue.embedded import embedded_postgres
from tests.servers.bouncer import pgbouncer, program


def main() -> int:
    """Print the result as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    path = program()
    if path is None:
        sys.exit("no pgbouncer here: apt install pgbouncer, or set TESTS_PGBOUNCER")
    rates: dict[str, list[float]] = {"direct": [], "pooled": []}
    with embedded_postgres(settings=SETTINGS) as dsn:
        schema.upgrade(dsn)
        with pgbouncer(path, dsn) as pooled:
            for _ in range(chosen.rounds):
                for name, to in (("direct", dsn), ("pooled", pooled)):
                    fill(dsn, chosen.jobs)
                    rates[name].append(drain(to, chosen.jobs, chosen.concurrency)[0])
    direct, through = (statistics.median(rates[name]) for name in ("direct", "pooled"))
    print(json.dumps({
        "direct_per_s": round(direct), "pooled_per_s": round(through),
        "ratio": round(through / direct, 2), **vars(chosen),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
