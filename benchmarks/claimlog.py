"""How long claims take in the server, from its log: a sample of all statements, of one database.

The server logs the execution of a statement: not its planning, which is done once, nor the commit after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.servers import Postgres

SHARE = 0.05
CLAIM = "for update of j skip locked"


class ClaimLog:
    """Asks for the sample; holds for the sessions that start after it."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        for setting, value in (
            ("log_min_duration_sample", 0),
            ("log_statement_sample_rate", SHARE),
            ("log_parameter_max_length", 0),
        ):
            postgres.execute(f"alter database {database} set {setting} = {value}")
        show = "select current_setting('data_directory'), pg_current_logfile('jsonlog')"
        folder, name = postgres.execute(show)[0]
        self._path = Path(str(folder), str(name))
        self._read = self._path.stat().st_size

    def take(self) -> list[float]:
        """The durations logged since the last time, in seconds."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new.rfind(b"\n") + 1
        self._read += whole
        return durations(new[:whole].decode(errors="replace").splitlines())


def durations(lines: Iterable[str]) -> list[float]:
    """The seconds that claims took, of a log in JSON."""
    messages = [str(json.loads(line).get("message", "")) for line in lines]
    return [
        float(message.split(maxsplit=2)[1]) / 1000
        for message in messages
        if message.startswith("duration: ") and " ms  execute " in message and CLAIM in message
    ]
