"""Jobs that the database refuses to let run, such as by a trigger of the user's: those beside them are claimed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import Candidate
from pgqueue.text import one_line
from pgqueue.worker.database import LOCK_NOT_AVAILABLE, StatementRefused
from pgqueue.worker.later import Later
from pgqueue.worker.log_limiter import LogLimiter
from pgqueue.worker.parts import in_parts, may_divide

LEFT_ALONE = (10.0, 300.0)  # seconds, at first and at most
MOST_LEFT_ALONE = 1000  # each is compared with each row that a claim comes upon
MOST_OF_A_TASK = 200  # then the task is left alone
NARROW_FOR = 0.5  # seconds; results wait meanwhile
REFUSED = (
    "job {} (task {}) cannot be claimed, for the database refuses to let it run: {}; other jobs go on, and it is tried"
    " again in a while; a trigger or a constraint on the table of jobs may be the cause"
)
ALL_OF_A_TASK = "the database refuses to let {} jobs of task {} run, so none of the task is claimed by this worker for a while"


class Unstartable:
    """Knows which jobs were refused, and leaves them alone for a while, later and later.

    It keeps a bounded number of them: of a task that has more, no job is claimed until some are tried again; and
    when there are too many of many tasks, what refuses them is no matter of a job.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._later: Later[Candidate] = Later(*LEFT_ALONE)
        self._told = LogLimiter(log, "jobs that the database refuses to let run")
        self.found = False  # was any since this was set to False, or is there perhaps one more?

    def resting(self) -> tuple[list[int], list[str]]:
        """The jobs to be left alone now, and the tasks of which there are too many."""
        if not len(self._later):
            return [], []
        self._told.sum_up()
        left = self._later.resting()
        tasks = Counter(each.task for each in left)
        return [each.id for each in left], [t for t, n in tasks.items() if n >= MOST_OF_A_TASK]

    async def claim(
        self,
        candidates: Sequence[Candidate],
        claim: Callable[[list[int]], Awaitable[int]],
        *,
        once: bool = False,
    ) -> None:
        """Claim all but those that are refused, for a moment; the next claim comes to what is left then.

        Args:
            claim: claims these jobs; how many it got.
            once: no more after the first that got some.

        Raises:
            DatabaseAway: the database did not answer.
            StatementRefused: more are refused than can be left alone, or it is no matter of a job.
        """
        items, until = list(candidates), time.monotonic() + NARROW_FOR
        got, too_many = 0, None

        def enough() -> bool:
            if late := time.monotonic() > until:
                self.found = True
            return late or bool(once and got)

        async def act(some: Sequence[Candidate]) -> None:
            nonlocal got
            got += await claim([each.id for each in some])
            if enough():
                items.clear()

        async def refused(candidate: Candidate, error: StatementRefused) -> None:
            nonlocal too_many
            if len(self._later) < MOST_LEFT_ALONE or candidate in self._later:
                self._leave(candidate, error)
            else:
                too_many = error
            if enough():
                items.clear()

        await in_parts(items, act, refused, divide=is_of_a_job)
        if too_many is not None and not got:
            raise too_many

    def _leave(self, candidate: Candidate, error: StatementRefused) -> None:
        self.found = True
        self._later.add([candidate])
        task = one_line(candidate.task)
        self._told.warn(f"job {candidate.id}", REFUSED.format(candidate.id, task, error))
        _, tasks = self.resting()
        if candidate.task in tasks:
            self._told.warn(f"task {task}", ALL_OF_A_TASK.format(MOST_OF_A_TASK, task))

    def claimed(self, jobs: Sequence[ClaimedJob]) -> None:
        """These were not refused this time."""
        if len(self._later):
            self._later.drop(Candidate(job.id, job.task) for job in jobs)


def is_of_a_job(error: StatementRefused) -> bool:
    """May a claim of other jobs succeed? What took too long, or waited for a lock of the table, is no matter of a job."""
    return may_divide(error) and error.state != LOCK_NOT_AVAILABLE
