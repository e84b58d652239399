"""The services of a worker beside its jobs: each is for the whole queue, and none is the leader."""

from __future__ import annotations

from collections.abc import Callable

from pgqueue.app import App
from pgqueue.config import Settings
from pgqueue.job import Status
from pgqueue.worker.database import Database
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.maintenance import Deadlines, Expirer, Keyer, Pruner, Rescuer
from pgqueue.worker.queues import Queues
from pgqueue.worker.scheduler import Scheduler
from pgqueue.worker.service import Keeper, Service
from pgqueue.worker.settler import Settler


def maintaining(
    app: App,
    settings: Settings,
    database: Database,
    queues: Queues,
    hooking: Hooking,
    settler: Settler,
    wake: Callable[[], None],
    suspected: Callable[[], None],
) -> list[Service]:
    """Make them; ``wake`` lets the claimers look at once, ``suspected`` the quarantine."""
    keep = {
        Status.SUCCEEDED: settings.keep_succeeded,
        Status.DEAD: settings.keep_dead,
        Status.CANCELLED: settings.keep_cancelled,
    }
    return [
        Rescuer(
            database=database,
            lease=settings.lease,
            max_crashes=settings.max_crashes,
            rescued=wake,
            suspected=suspected,
            hooking=hooking,
            settle=settler.ended,
        ),
        Pruner(database=database, keep=keep, keep_events=settings.keep_events),
        Keyer(database=database, keyed=wake),
        Expirer(database=database, settle=settler.ended),
        Deadlines(database=database, settle=settler.ended),
        Scheduler(database=database, declared=app.schedules, fired=wake),
        queues,
        settler,
        Keeper(database),
    ]
