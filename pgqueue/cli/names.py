"""Warnings of names that nothing here has: most are misspelt."""

from __future__ import annotations

from collections.abc import Iterable

import click

from pgqueue import config
from pgqueue.app import App
from pgqueue.cli.application import load_app
from pgqueue.text import nearest, one_line


def warn_of_unknown(app: App, *, queues: Iterable[str] = (), tasks: Iterable[str] = ()) -> None:
    """Say which of these names no job, setting, schedule, worker or configured app has, and what is near."""
    asked = {"queue": [q for q in queues if q != "*"], "task": list(tasks)}
    if not any(asked.values()):
        return
    known = app.client.known_names()
    known_to_code = _configured()
    for kind, names in asked.items():
        there = known[kind] | known_to_code[kind]
        for name in names:
            if name not in there:
                say_unknown(kind, name, there)


def say_unknown(kind: str, name: str, known: Iterable[str]) -> None:
    """One warning."""
    near = nearest(name, sorted(known))
    click.echo(
        f"pgqueue: warning: no {kind} {one_line(name)} is known here{one_line(near)}", err=True
    )


def _configured() -> dict[str, set[str]]:
    """What the app of the settings declares, if there is one and it can be imported."""
    if config.load().app is None:
        return {"queue": set(), "task": set()}
    try:
        app = load_app(None)
        definitions = app.definitions
    except Exception:
        return {"queue": set(), "task": set()}
    return {
        "queue": {each.options.queue for each in definitions} | set(app.queue_settings),
        "task": {name for each in definitions for name in (each.name, *each.aliases)},
    }
