"""Operations on the settings of queues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Unpack

from pgqueue.job import check_queue
from pgqueue.operations import Operation, Row
from pgqueue.queues import QueueGiven, QueueSettings, by_hand, changes
from pgqueue.rooms import Seen


def as_declared(queues: Mapping[str, QueueSettings]) -> str:
    """Declarations as JSON text, the same for who enqueues and for who writes them."""
    return json.dumps([{"name": n, **each.as_dict()} for n, each in sorted(queues.items())])


def look(queues: Mapping[str, QueueSettings]) -> Operation[list[Seen]]:
    """Queues that the code declares, as they are now."""

    def decode(rows: Sequence[Row]) -> list[Seen]:
        return [Seen._make((*row[:4], _backoff(row[4]), *row[5:])) for row in rows]

    return Operation("look_at_queues", {"declared": as_declared(queues)}, decode)


def _backoff(text: str | None) -> Mapping[str, float] | None:
    return None if text is None else json.loads(text)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """The settings of a queue as they are.

    ``declared``: the code declares the queue. ``by_hand``: settings that are not as the code says, but were changed by hand.
    """

    name: str
    settings: QueueSettings
    paused_at: datetime | None
    declared: bool
    by_hand: tuple[str, ...]


def put(name: str, **given: Unpack[QueueGiven]) -> Operation[None]:
    """Change the settings that are given; None takes one off."""
    values: dict[str, Any] = {"name": check_queue(name), "changes": json.dumps(changes(**given))}
    return Operation("set_queue", values, lambda rows: None)


def find(name: str | None = None) -> Operation[list[QueueRow]]:
    """The queues that have settings or are declared, the first thousand; or the one of a name."""

    def decode(rows: Sequence[Row]) -> list[QueueRow]:
        return [_queue_row(row) for row in rows]

    return Operation("list_queues", {"name": name}, decode)


def _queue_row(row: Row) -> QueueRow:
    settings, declared = _settings(row[1:13]), None if row[14] is None else json.loads(row[14])
    changed = by_hand(asdict(settings), declared or {})
    return QueueRow(row[0], settings, row[13], declared is not None, changed)


def _settings(columns: Row) -> QueueSettings:
    read = [*columns[:9], _backoff(columns[9]), *columns[10:]]
    return QueueSettings(**dict(zip(_COLUMNS, read, strict=True)))


_COLUMNS = tuple(each.name for each in fields(QueueSettings))


def known_names() -> Operation[dict[str, set[str]]]:
    """The names of queues and of tasks that the database has, by "queue" and "task"."""

    def decode(rows: Sequence[Row]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {"queue": set(), "task": set()}
        for kind, name in rows:
            found[kind].add(name)
        return found

    return Operation("known_names", {}, decode)
