"""Encrypts stored arguments anew with the first key, so that old keys can be retired."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from pgqueue.client import Client
from pgqueue.errors import ArgumentsError, KeyMissing
from pgqueue.keys import FIELD, Keys, key_of

BATCH = 500


@dataclass(slots=True)
class Rekeyed:
    """Jobs by what became of them: ids changed, running (run it again later), and why others were left.

    ``schedules``: the names of those changed; ``schedules_left``: why others were left.
    """

    changed: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    left: dict[int, str] = field(default_factory=dict)
    schedules: list[str] = field(default_factory=list)
    schedules_left: dict[str, str] = field(default_factory=dict)


def rekey(client: Client, keys: Keys) -> Rekeyed:
    """Encrypt the arguments of schedules, and of jobs that may run again, with the first of ``keys``.

    Running jobs are only listed: they hold their arguments, and may be retried with them. Succeeded
    ones never run again. Safe to stop and to run again; a job that changes meanwhile is left alone.
    """
    result = Rekeyed()
    _schedules(client, keys, result)  # first: their jobs copy the arguments
    after = 0
    while rows := client.encrypted(after=after, limit=BATCH):
        after = rows[-1].id
        changes: list[tuple[int, str, str]] = []
        for row in rows:
            try:
                text = again(row.task, row.args, keys)
            except (KeyMissing, ArgumentsError) as error:
                result.left[row.id] = str(error)
                continue
            if text is not None and row.running:
                result.running.append(row.id)
            elif text is not None:
                changes.append((row.id, row.args, text))
        if changes:
            done = client.replace_args(changes)
            result.changed += done
            result.running += sorted({job_id for job_id, _, _ in changes} - set(done))
    return result


def _schedules(client: Client, keys: Keys, result: Rekeyed) -> None:
    for row in client.encrypted_schedules():
        try:
            text = again(row.task, row.args, keys)
        except (KeyMissing, ArgumentsError) as error:
            result.schedules_left[row.name] = str(error)
            continue
        if text is None:
            continue
        if client.replace_schedule_args(row.name, row.args, text):
            result.schedules.append(row.name)
        else:
            result.schedules_left[row.name] = "it changed meanwhile: run this again"


def again(task: str, text: str, keys: Keys) -> str | None:
    """Arguments encrypted with the first key; None if they are already."""
    try:
        values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:  # cut where they are too large
        raise ArgumentsError("its arguments are too large, or no object") from None
    changed = False
    for name, raw in values.items():
        value: Any = msgspec.json.decode(raw) if FIELD.encode() in bytes(raw) else None
        used = key_of(value, name)
        if used is not None and used != keys.ids[0]:
            plain = keys.open(value, task=task, parameter=name)
            sealed = keys.seal(plain, task=task, parameter=name)
            values[name] = msgspec.Raw(msgspec.json.encode(sealed))
            changed = True
    return msgspec.json.encode(values).decode() if changed else None
