"""What may stand between an app and its database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pgqueue.gateway import Gateway
from pgqueue.job import Added, NewJob
from pgqueue.operations.jobs import End
from pgqueue.operations.workflows import Added as Entered
from pgqueue.operations.workflows import Deadline, Member


class Instead(Protocol):
    """What takes jobs in place of the database: the testing kit."""

    def way(self, gateway: Gateway) -> Gateway:
        """What runs the operations that come without a connection, in place of the app's own.

        Raises:
            ConnectionUnusable: they may not.
        """

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None:
        """What became of them; None to send them to ``on`` as ever."""

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None: ...

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None: ...

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None: ...

    def end_of(self, job_id: int) -> End | None:
        """Where a job stands that it took; None if it took no such job."""

    async def aend_of(self, job_id: int) -> End | None: ...
