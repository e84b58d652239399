"""Warnings of names that nothing here has: most are misspelt."""

from __future__ import annotations

from collections.abc import Iterable

from pgqueue.app import App
from pgqueue.cli.terminal import say
from pgqueue.text import nearest

TOO_MANY = 10_000


def warn_of_unknown(app: App, *, queues: Iterable[str] = (), tasks: Iterable[str] = ()) -> None:
    """Say which of these names no job, setting, schedule or worker has, and what is near.

    Of the database only: a command that looks imports nobody's code.
    """
    asked = {"queue": [q for q in queues if q != "*"], "task": list(tasks)}
    if not any(asked.values()):
        return
    known = app.client.known_names()
    for kind, names in asked.items():
        if len(known[kind]) >= TOO_MANY:  # not all of them were fetched
            continue
        for name in names:
            if name not in known[kind]:
                say_unknown(kind, name, known[kind])


def say_unknown(kind: str, name: str, known: Iterable[str]) -> None:
    """One warning."""
    near = nearest(name, sorted(known))
    say(f"pgqueue: warning: no {kind} {name} is known here{near}", err=True)
