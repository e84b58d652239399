"""Settings: arguments over environment over ``pgqueue.toml`` or ``[tool.pgqueue]``."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError
from pgqueue.sizes import size
from pgqueue.text import nearest

_DURATIONS = {
    "lease",
    "poll",
    "grace",
    "keep_succeeded",
    "keep_dead",
    "keep_cancelled",
    "keep_events",
    "default_timeout",
    "newer_worker_wait",
}


class Given(TypedDict, total=False):
    """Settings as ``Worker`` takes them; those left out come from the environment and the files."""

    concurrency: int
    lease: Duration
    poll: Duration
    grace: Duration
    keep_succeeded: Duration | None
    keep_dead: Duration | None
    keep_cancelled: Duration | None
    keep_events: Duration | None
    max_crashes: int
    max_rss: int | str | None
    default_timeout: Duration | None
    newer_worker_wait: Duration | None
    notify: bool
    processes: int
    prefetch: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker behaves. Times in seconds; None for a ``keep_`` means for ever.

    Args:
        concurrency: jobs run at once in one process.
        lease: how long a claim is valid without a sign of life.
        poll: longest wait between looks at an idle queue.
        grace: how long running jobs may go on after SIGTERM; with a few seconds to spare below the time after
            which whoever sent it sends SIGKILL (Kubernetes: 30 s), which would count as a crash.
        keep_succeeded: retention of succeeded jobs; 0 deletes them at once.
        keep_dead: retention of dead jobs.
        keep_cancelled: retention of cancelled jobs.
        keep_events: retention of events.
        max_crashes: leases of a job that may run out, the last of them while it ran alone, before it is dead.
        max_rss: resident memory of a process and its pool of processes, in bytes or as "500MB", at
            which it ends and the supervisor starts another; None for no limit.
        default_timeout: longest run of a task that sets none; None for no limit.
        newer_worker_wait: how long a job with arguments that its task does not know waits for a worker of
            a newer version before it is dead; None for ever. Longer than a rolling deployment takes.
        notify: listen for new jobs; without it the queue is only polled.
        processes: size of the process pool of ``run="process"`` tasks.
        prefetch: jobs that may wait in the worker so that short ones do not wait for the database;
            None lets the worker choose by their run time, 0 turns it off.
    """

    concurrency: int = 20
    lease: float = 60.0
    poll: float = 1.0
    grace: float = 20.0
    keep_succeeded: float | None = 86_400.0
    keep_dead: float | None = None
    keep_cancelled: float | None = 604_800.0
    keep_events: float | None = 604_800.0
    max_crashes: int = 3
    max_rss: int | None = None
    default_timeout: float | None = 3600.0
    newer_worker_wait: float | None = 3600.0
    notify: bool = True
    processes: int = 2
    prefetch: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_crashes", "processes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
                raise ConfigError(f"{name} must be a whole number from 1 to 10000, got {value!r}")
        for name in ("lease", "poll", "grace"):
            if getattr(self, name) is None:
                raise ConfigError(f"{name} cannot be for ever: give a duration")
        if self.lease < 1:
            raise ConfigError(f"lease must be at least 1s, got {self.lease}s")
        if self.poll < 0.01:
            raise ConfigError(f"poll must be at least 10ms, got {self.poll}s")
        if not isinstance(self.notify, bool):
            raise ConfigError(f"notify must be true or false, got {self.notify!r}")
        size = self.prefetch
        if size is not None and (type(size) is not int or not 0 <= size <= 10_000):
            raise ConfigError(f"prefetch must be a whole number from 0 to 10000, got {size!r}")

    def with_(self, **given: Any) -> Settings:
        """Return a copy with the given settings; durations as ``60``, ``"60s"`` or timedelta."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise ConfigError(
                f"no setting {', '.join(unknown)}{nearest(unknown[0], known)}; there are"
                f" {', '.join(sorted(known))}"
            )
        return replace(self, **{k: _read(k, v) for k, v in given.items()})


def _read(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        return None if value is None or value == "forever" else seconds(value, name=name)
    if name == "max_rss":
        return None if value is None else size(value, name=name)
    if isinstance(value, str):
        return _from_text(name, value)
    return value


def _from_text(name: str, value: str) -> Any:
    lowered = value.strip().lower()
    if name == "notify":
        if lowered in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return lowered in ("1", "true", "yes", "on")
        raise ConfigError(f"notify must be true or false, got {value!r}")
    try:
        return int(lowered)
    except ValueError:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from None


@dataclass(frozen=True, slots=True)
class Config:
    """What the files and the environment say; the command line goes over it."""

    dsn: str | None = field(default=None, repr=False)
    app: str | None = None
    schema: str = "pgqueue"
    redact: tuple[str, ...] = ()
    keys: str | None = field(default=None, repr=False)
    settings: Settings = Settings()


def load(directory: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read ``pgqueue.toml``, or ``[tool.pgqueue]`` of ``pyproject.toml``, then ``PGQUEUE_*``.

    Raises:
        ConfigError: a file cannot be read, or a setting is unknown or wrong.
    """
    directory = directory or _here()
    environ = os.environ if environ is None else environ
    file, found = ("", {}) if directory is None else _file_values(directory)
    if "keys" in found:
        raise ConfigError(
            f"{file}: keys of encrypted arguments belong in PGQUEUE_KEYS, not in a file"
        )
    variables = {
        key: {name: value}
        for key, value in environ.items()
        if key.startswith(_PREFIX) and (name := key.removeprefix(_PREFIX).lower()) in _KEYS
    }
    top: dict[str, Any] = {}
    settings = Settings()
    for source, values in {file: found, **variables}.items():
        try:
            top |= {k: _top(k, v) for k, v in values.items() if k in _TOP}
            settings = settings.with_(**{k: v for k, v in values.items() if k not in _TOP})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    if directory is not None and "dsn" not in top and not any(map(environ.get, LIBPQ_SAYS_WHERE)):
        top = {**dev_server(directory), **top}
    return Config(**top, settings=settings)


def _here() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def dev_server(directory: Path) -> dict[str, str]:
    """The DSN and the schema of the ``pgqueue dev`` that runs in a directory; empty if none does."""
    file = directory / DEV_FILE
    try:
        status = file.stat()
        # Somebody else's, or one that others can write, could lead anywhere.
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return {}
        found = json.loads(file.read_text("utf-8"))
        os.kill(int(found["pid"]), 0)
        return {"dsn": str(found["dsn"]), "schema": str(found["schema"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each ``PGQUEUE_*`` variable that is none of ours, with the name it is near to."""
    names = {key.upper() for key in _KEYS}
    return [
        f"{key} is no setting and is ignored{nearest(name, names, prefix=_PREFIX)}"
        for key in sorted(environ)
        if key.startswith(_PREFIX)
        and (name := key.removeprefix(_PREFIX).upper()) not in names | _OTHERS
    ]


DEV_FILE = Path(".pgqueue") / "dev.json"
# The variables by which libpq is told where a database is.
LIBPQ_SAYS_WHERE = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")
_PREFIX = "PGQUEUE_"
_OTHERS = {"SUPERVISED", "LINE", "QUARANTINE", "TURNS"}
_TOP = ("dsn", "app", "schema", "redact", "keys")
_KEYS = {f.name for f in fields(Settings)} | set(_TOP)


def _top(name: str, value: Any) -> Any:
    if name == "redact":
        names = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ConfigError('redact must be a list of names, such as ["iban", "-token"]')
        return tuple(filter(None, names))
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, got a {type(value).__name__}")
    return value


def _text_of(file: Path) -> tuple[str, str]:
    """What a file says, and why it is not to be trusted: others own it or may write to it."""
    with file.open("rb") as opened:
        found = [os.fstat(opened.fileno()), file.lstat()]
        text = opened.read().decode("utf-8")
    if not hasattr(os, "geteuid"):
        return text, ""
    if any(each.st_uid not in (0, os.geteuid()) for each in found):
        return text, "belongs to another user"
    writable = found[0].st_mode
    if writable & stat.S_IWOTH or (writable & stat.S_IWGRP and not _is_private(found[0].st_gid)):
        return text, "may be written to by other users"
    return text, ""


def _is_private(group: int) -> bool:
    """Is it the group that a user has alone, as many systems make one for each?"""
    import grp
    import pwd

    try:
        return grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def _check_top_level(file: Path, table: dict[str, Any]) -> None:
    for inside, name in ((table, "pgqueue"), (table.get("tool"), "tool.pgqueue")):
        if isinstance(inside, dict) and isinstance(inside.get("pgqueue"), dict):
            raise ConfigError(
                f"{file}: settings stand at the top level of this file: remove the line [{name}]. In pyproject.toml"
                " they stand in [tool.pgqueue]"
            )


@lru_cache(maxsize=4)
def _parsed(text: str) -> dict[str, Any]:
    """A file is read each time, since it may change, and parsed once for each text."""
    return tomllib.loads(text)


def _file_values(directory: Path) -> tuple[str, dict[str, Any]]:
    for name, path in (("pgqueue.toml", ()), ("pyproject.toml", ("tool", "pgqueue"))):
        file = directory / name
        if not file.is_file():
            continue
        try:
            text, distrust = _text_of(file)
            table: Any = _parsed(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        for step in path:
            table = table.get(step, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{file}: {step} must be a table")
        if table and distrust:
            raise ConfigError(
                f"{file} {distrust}, who could make this command run code of theirs: change that, or"
                " remove pgqueue's settings from it"
            )
        if not path:
            _check_top_level(file, table)
        if table:
            return str(file), dict(table)
    return "", {}
