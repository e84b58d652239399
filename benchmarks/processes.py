"""CPU time and memory of processes and their children, from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, from the state on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all below them, those that are alive."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if _fields(pid):
            found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of these processes, all below them, and those of them that have ended."""
    ticks = 0
    for pid in tree(roots):
        if fields := _fields(pid):
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICK


def resident_bytes(roots: Iterable[int]) -> int:
    """Memory in RAM of these processes and all below them; shared pages count in each."""
    return sum(int(fields[21]) * PAGE for pid in tree(roots) if (fields := _fields(pid)))


def commands(roots: Iterable[int]) -> dict[int, str]:
    """The command lines of these processes and all below them, by pid."""
    found = {}
    for pid in tree(roots):
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found[pid] = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return found
