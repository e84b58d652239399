"""The limit without Python: pgqueue's statements sent by pgbench. Its jobs are counted in the table."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measurement import Collector
from benchmarks.stage import Stage
from pgqueue.embedded import binaries
from pgqueue.job import ClaimedJob
from pgqueue.sql import load

PINNED = " ".join(
    f"-c {name}=off"
    for name in (
        "enable_seqscan",
        "enable_bitmapscan",
        "enable_hashjoin",
        "enable_mergejoin",
        "jit",
    )
)
UPDATE = "update pgqueue.jobs set attempt = attempt + 1 where id = {};\n"


def script(batch: int) -> str:
    """Claim from a cursor on, then complete: the statements as the worker has them, in one lane."""
    claim = _put(load()["claim"].named, {
        "skip_touched": "false", "without": "array[]::text[]", "only": "null", "not_ids": "array[]::bigint[]", "queues": "array['default']", "priorities": "array[0]", "after_at": "array[':after_at']",
        "after_ids": "array[:after_id]", "limit": str(batch), "claim_id": "':claim'",
        "worker_id": "':claim'", "lease": "60",
    })  # fmt: skip
    picking, updating, rest = claim.partition("\nupdate pgqueue.jobs j\n")
    columns = ", ".join(name for name in ClaimedJob._fields if name != "claim_id")
    complete = _put(load()["complete"].named, {
        "ids": "':ids'", "claim_ids": f"array_fill(':claim'::uuid, array[{batch}])",
        "run_seconds": f"array_fill(0::real, array[{batch}])",
    })  # fmt: skip
    return (
        "select gen_random_uuid() as claim \\gset\n"
        f"{picking}, claimed ({columns}) as ({updating}{rest})\n"
        "select array_agg(id) as ids, max(id) as after_id,\n"
        "       (array_agg(run_at order by run_at desc, id desc))[1] as after_at from claimed \\gset\n"
        f"{complete};\n"
    )


def _put(statement: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        statement = statement.replace(f"(:{name})", f"({value})")
    return statement


def run(stage: Stage, database: str, text: str, transactions: int, *given: str) -> float:
    """Transactions per second of one pgbench client."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.sql"
        path.write_text(text)
        done = subprocess.run(
            [binaries() / "pgbench", "-n", "-c", "1", "-M", "simple", "-t", str(transactions),
             "-f", path, *given, stage.postgres.of(database)],
            capture_output=True, text=True, check=False, env={**os.environ, "PGOPTIONS": PINNED},
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"pgbench failed: {done.stderr[-500:]}")
    found = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    return float(found[0].split()[2])


def drain(stage: Stage, collector: Collector, case: str, batch: int, jobs: int) -> None:
    """Jobs per second; no result unless the table then has every job succeeded once."""
    jobs -= jobs % batch
    with stage.run("bare", jobs) as prepared:
        prepared.enqueue(jobs)
        stage.calm(prepared)
        rate = run(stage, prepared.database, script(batch), jobs // batch,
                   "-D", "after_at=-infinity", "-D", "after_id=0")  # fmt: skip
        statement = "select count(*) from pgqueue.jobs where status = 'succeeded' and attempt = 1"
        succeeded = stage.postgres.execute(statement, database=prepared.database)[0][0]
    if succeeded == jobs:
        collector.add("pgbench", case, "rate", "jobs/s", rate * batch)
    else:
        collector.fault("pgbench", case, f"{succeeded} of {jobs} jobs succeeded once")


def single_row_updates(stage: Stage, transactions: int) -> float:
    """Commits per second of one connection that updates one row of the jobs table each time."""
    with stage.run("bare", 1000) as prepared:
        prepared.enqueue(1000)
        stage.calm(prepared)
        return run(
            stage,
            prepared.database,
            f"\\set id random(1, 1000)\n{UPDATE.format(':id')}",
            transactions,
        )
