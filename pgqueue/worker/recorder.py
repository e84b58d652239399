"""Records what became of jobs, in batches; a result that cannot be recorded holds up no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from pgqueue.job import ClaimedJob
from pgqueue.operations import claims
from pgqueue.operations.claims import Finished, Lane, Taking
from pgqueue.outcome import SUCCEEDED, Outcome
from pgqueue.worker.database import Database, DatabaseTrouble, StatementRefused, perhaps_done
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.report import report, report_successes

log = logging.getLogger("pgqueue.recorder")

MOST_AT_ONCE = 1000
# The claim of a trade sees the table as it was when the trade began: with many results to record before it, it
# tries the rows that other workers have claimed meanwhile, one by one.
MOST_TRADED = 200
AFTER_A_REFUSAL = 60.0
# Data, constraint, raised by a trigger, program limit.
_DATA = ("22", "23", "P0", "54")


class Recorder:
    """Empties ``ended``; what the database did not answer to goes back for the next pass."""

    def __init__(
        self,
        *,
        database: Database,
        deletes: Callable[[str], bool],
        hooking: Hooking,
        settle: Callable[[Iterable[int]], None],
    ) -> None:
        self._hooking, self._settle = hooking, settle
        self._database = database
        self._deletes = deletes
        self._apart = False
        self.lost = 0
        self.unknown = 0

    @property
    def behind(self) -> bool:
        """Are so many hooks still to be called that no more jobs are to be claimed?"""
        return self._hooking.behind

    async def record(self, ended: list[Finished]) -> None:
        """Record everything in ``ended``.

        Raises:
            DatabaseAway: the database did not answer.
        """
        self._apart = False
        while ended:
            batch = ended[:MOST_AT_ONCE]
            del ended[:MOST_AT_ONCE]
            parts: dict[str, list[Finished]] = {}
            for each in batch:
                parts.setdefault(self._way_of(each), []).append(each)
            try:
                for part in parts.values():
                    await self._write(part)
                    part.clear()
            except BaseException as error:
                if perhaps_done(error):
                    part[:] = _doubtful(part)
                ended[:0] = [each for part in parts.values() for each in part]
                raise

    def may_trade(self, ended: list[Finished]) -> bool:
        """Are all of them successes, and few enough to be recorded in the statement of a claim?"""
        if self._apart or len(ended) > MOST_TRADED:
            return False
        return len(self._tradable(ended)) == len(ended)

    def _tradable(self, ended: Sequence[Finished]) -> list[Finished]:
        """The successes whose rows go, or stay, as that of the first does."""
        delete = self._deleted(ended[0]) if ended else False
        deletes = {queue: self._deletes(queue) for queue in {f.job.queue for f in ended if f.job}}
        return [
            f for f in ended
            if f.outcome is SUCCEEDED and not f.doubtful and (job := f.job) is not None
            and (job.workflow_id is None and deletes[job.queue]) == delete
        ]  # fmt: skip

    def _deleted(self, finished: Finished) -> bool:
        """Is the row deleted when it is recorded?"""
        # The row of a job in a workflow stays: others look at it.
        job = finished.job
        return job is not None and job.workflow_id is None and self._deletes(job.queue)

    async def trade(
        self,
        ended: list[Finished],
        lanes: Sequence[Lane],
        skip_touched: bool,
        taking: Taking,
        without: Sequence[str] = (),
    ) -> list[ClaimedJob]:
        """Record successes and claim, in one statement; what else has ended meanwhile stays in ``ended``.

        Raises:
            DatabaseAway: the database did not answer.
            StatementRefused: what was refused is recorded without a claim next time.
        """
        delete = self._deleted(ended[0]) if ended else False
        done = self._tradable(ended)[:MOST_TRADED]
        taken = {id(each) for each in done}
        ended[:] = [each for each in ended if id(each) not in taken]
        operation = claims.trade(
            done, lanes, delete=delete, skip_touched=skip_touched, without=without, **taking
        )
        try:
            recorded, jobs = await self._database.run(operation)
        except BaseException as error:
            ended[:0] = _doubtful(done) if perhaps_done(error) else done
            self._apart = isinstance(error, Exception) and refused(error)
            raise
        self._count_missing(done, set(recorded))
        self._tell_of_successes(done, set(recorded))
        self._ended(done)
        return jobs

    def _way_of(self, finished: Finished) -> str:
        """Which statement records it."""
        outcome = finished.outcome
        if outcome.kind not in ("succeeded", "completed"):
            return "fail"
        if outcome == SUCCEEDED:
            return "delete" if self._deleted(finished) else "complete"
        return "complete_with" if outcome.kind == "succeeded" else "completed"

    async def _write(self, finished: list[Finished]) -> None:
        try:
            await self._write_all(finished)
        except Exception as error:
            if not refused(error):
                raise
            if len(finished) == 1:
                await self._write_plain(finished[0], error)
                return
            log.warning("%d results refused together, recording them one by one", len(finished))
            for each in list(finished):
                await self._write([each])
                finished.remove(each)

    async def _write_plain(self, finished: Finished, error: Exception) -> None:
        """Record that the result was refused, without anything that could be refused again."""
        log.error("job %d: its result was refused: %s", finished.id, error)
        plain = Outcome("retry", AFTER_A_REFUSAL, type(error).__name__, "its result was refused")
        try:
            await self._write_all([finished._replace(outcome=plain, run_seconds=0.0)])
        except Exception as again:
            if not refused(again):
                raise
            log.exception("job %d: left to its lease", finished.id)

    async def _write_all(self, finished: list[Finished]) -> None:
        match self._way_of(finished[0]):
            case "complete" | "delete" as way:
                done = await self._database.run(claims.complete(finished, delete=way == "delete"))
                await self._succeeded(finished, set(done))
                return
            case "complete_with":
                done = await self._database.run(claims.complete_with(finished))
                await self._succeeded(finished, set(done))
                return
            case "completed":
                await self._completed(finished)
                return
        ended = await self._database.run(claims.fail(finished))
        self._count_missing(finished, set(ended))
        await self.hold_again(
            f.id for f in finished if f.outcome.kind == "snooze" and not f.run_seconds
        )
        self._ended(finished)
        for each in finished:
            recorded = ended.get(each.id)
            if recorded and each.job and each.outcome.error_type is not None:
                report(each.job, each.outcome, recorded)
                self._hooking.failed(each, recorded)

    async def _succeeded(self, finished: list[Finished], done: set[int]) -> None:
        """These successes were sent, and those with the ids ``done`` are recorded by it."""
        unsure = [f for f in finished if f.doubtful and f.id not in done]
        if unsure and self._hooking.wants_successes:
            became = await self._database.run(claims.recorded(unsure))
            done |= {f.id for f in unsure if became.get(f.id) in ("succeeded", "gone")}
        self._count_missing(finished, done)
        self._tell_of_successes(finished, done)
        self._ended(finished)

    async def _completed(self, finished: list[Finished]) -> None:
        """Their handlers completed them in transactions, of which some may not have been committed."""
        unsure = [f for f in finished if f.outcome.otherwise is not None]
        became = await self._database.run(claims.recorded(unsure)) if unsure else {}
        held = [f for f in unsure if became.get(f.id) == "held"]
        lost = {f.id for f in unsure if became.get(f.id) == "lost"}
        done = {f.id for f in finished} - lost - {f.id for f in held}
        if adding := [f for f in finished if f.id in done and _adds(f.outcome)]:
            await self._database.run(claims.add_results(adding))
        for each in held:
            if (outcome := each.outcome.otherwise) is not None:
                await self._write([each._replace(outcome=outcome)])
        ended = [f for f in finished if f not in held]
        self._count_missing(ended, done)
        self._tell_of_successes(ended, done)
        self._ended(ended)

    def _tell_of_successes(self, finished: list[Finished], done: set[int]) -> None:
        report_successes(f for f in finished if f.id in done)
        if self._hooking.wants_successes:
            self._hooking.succeeded([f for f in finished if f.id in done])

    async def hold_again(self, never_started: Iterable[int]) -> None:
        """Let jobs that were given back before they started hold their unique keys again."""
        if job_ids := list(never_started):
            with suppress(DatabaseTrouble):  # reported; they run without
                await self._database.run(claims.hold_again(job_ids))

    def _ended(self, finished: list[Finished]) -> None:
        self._settle(each.id for each in finished if each.in_workflow)

    def _count_missing(self, finished: list[Finished], recorded: set[int]) -> None:
        """No row was found: recorded already when that is possible, else the claim was lost."""
        missing = [f for f in finished if f.id not in recorded]
        lost = [f.id for f in missing if not f.doubtful]
        self.lost += len(lost)
        self.unknown += len(missing) - len(lost)
        if lost:
            log.warning("%d results dropped, their claims were lost: jobs %s", len(lost), lost[:20])
        if len(missing) > len(lost):
            log.info("%d results were recorded before without an answer, or were lost",
                     len(missing) - len(lost))  # fmt: skip


def _adds(outcome: Outcome) -> bool:
    """Is there anything to record besides the completion?"""
    remark = outcome.error is not None and outcome.error_type is None
    return outcome.result is not None or outcome.log is not None or remark


def _doubtful(finished: list[Finished]) -> list[Finished]:
    return [each._replace(doubtful=True) for each in finished]


def refused(error: Exception) -> bool:
    """Was it the data? Then the same statement would be refused again and again."""
    return isinstance(error, StatementRefused) and error.state.startswith(_DATA)
