"""Which queues share how many slots of a worker, and what it says of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from pgqueue.app import App
from pgqueue.checks import several
from pgqueue.config import Settings
from pgqueue.job import check_queue
from pgqueue.text import nearest

log = logging.getLogger("pgqueue.worker")

Queues = Mapping[str, int] | Sequence[str] | None
Pools = Mapping[tuple[str, ...] | None, int]


def pools(queues: Queues, concurrency: int) -> dict[tuple[str, ...] | None, int]:
    """Which queues share how many slots; None stands for all queues.

    Raises:
        ConfigError: a queue name or its concurrency is wrong.
    """
    if queues is None:
        return {None: concurrency}
    if not isinstance(queues, Mapping):
        names = several(queues, "queues", "names, or a dict of numbers by name")
        return {tuple(map(check_queue, names)) or None: concurrency}
    for name, size in queues.items():
        check_queue(name)
        Settings().with_(concurrency=size)
    return {(name,): size for name, size in queues.items()}


def summary(pools: Pools) -> str:
    """In words, for the log."""
    return "; ".join(
        f"{'all queues' if names is None else ', '.join(names)}: {size} at a time"
        for names, size in pools.items()
    )


def declared(app: App) -> set[str]:
    """The queues that tasks and job classes of this process name."""
    return {"default"} | {definition.options.queue for definition in app.definitions}


def say_tasks(app: App, pools: Pools) -> None:
    """Log what the app can run; warn of queues that nothing in its code names."""
    names = sorted(each.name for each in app.definitions)
    if names:
        log.info("%s: %s", "1 task" if len(names) == 1 else f"{len(names)} tasks", ", ".join(names))
    else:
        log.warning("the app has no tasks: import the modules that define them where it is made")
    known = declared(app) | set(app.queue_settings)
    for queue in (name for names in pools for name in names or ()):
        if queue not in known:
            log.warning("queue %s: no task of the app names it%s", queue, nearest(queue, known))
