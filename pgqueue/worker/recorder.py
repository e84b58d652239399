"""Records what became of jobs, in batches; a result that cannot be recorded holds up no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from pgqueue.job import ClaimedJob, Status
from pgqueue.operations import claims
from pgqueue.operations.claims import Finished, Lane, Recorded, Taking
from pgqueue.outcome import SUCCEEDED, Outcome
from pgqueue.worker import clock
from pgqueue.worker.database import (
    LOCK_NOT_AVAILABLE,
    TOO_LONG,
    Database,
    DatabaseTrouble,
    StatementRefused,
    perhaps_done,
)
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.outage import Seldom
from pgqueue.worker.parts import in_parts
from pgqueue.worker.postponed import Entry, Postponed
from pgqueue.worker.report import report, report_successes
from pgqueue.worker.verdict import Verdict, verdict

log = logging.getLogger("pgqueue.recorder")

MOST_AT_ONCE = 1000
# The claim of a trade sees the table as it was when the trade began: with many results to record before it, it
# tries the rows that other workers have claimed meanwhile, one by one.
MOST_TRADED = 200
GIVEN_UP = "ResultRefused"
PARTS = "%d results refused together, recording them in parts: %s"
ENDED_AS = {
    "retry": "failed",
    "snooze": "was to run again later",
    "suspend": "was to run again later",
    "cancelled": "was cancelled",
    "dead": "failed",
}
KEEP_TRYING = 60.0  # seconds, with what the database refuses


class Recordings:
    """Counts the batches that the pools of a worker have begun to record: each may make jobs due in any of them."""

    begun = 0


class Recorder:
    """Empties ``ended``; what the database did not answer to goes back for the next pass.

    A row that another session has locked, and one that the database refuses to write, holds up no other: it is
    postponed, while its lease is renewed. A result that is refused is tried without what may be wrong with it, with
    the same outcome; after 60 s without success the job is recorded as dead, with the reason.
    """

    def __init__(
        self,
        *,
        database: Database,
        deletes: Callable[[str], bool],
        hooking: Hooking,
        settle: Callable[[Iterable[int]], None],
        postponed: Postponed,
        recordings: Recordings,
    ) -> None:
        self._hooking, self._settle = hooking, settle
        self.recordings = recordings
        self._postponed = postponed
        self._database = database
        self._deletes = deletes
        self._apart, self._seldom = False, Seldom()
        self.lost = 0
        self.unknown = 0

    @property
    def behind(self) -> bool:
        """Are so many hooks still to be called that no more jobs are to be claimed?"""
        return self._hooking.behind

    async def record_postponed(self, *, ending: bool = False) -> None:
        """Try again what is due of what could not be recorded; ``ending``: there is no time for more tries.

        Raises:
            DatabaseAway: the database did not answer.
        """
        entries = self._postponed.due()
        if not entries:
            return
        tried_until = clock.seconds() - (0.0 if ending else KEEP_TRYING)
        again = [
            _given_up(entry) if entry.refusal and entry.since < tried_until else entry.finished
            for entry in entries
        ]
        try:
            await self.record(again)
        except BaseException:
            self._postponed.put_back(again)
            raise

    async def record(self, ended: list[Finished]) -> None:
        """Record everything in ``ended``, or postpone it.

        Raises:
            DatabaseAway: the database did not answer.
        """
        self._apart = False
        while ended:
            self.recordings.begun += 1
            batch = ended[:MOST_AT_ONCE]
            del ended[:MOST_AT_ONCE]
            parts: dict[str, list[Finished]] = {}
            for each in batch:
                parts.setdefault(self._way_of(each), []).append(each)
            try:
                for part in parts.values():
                    await self._write(part)
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
        self.recordings.begun += bool(done)
        taken = {id(each) for each in done}
        ended[:] = [each for each in ended if id(each) not in taken]
        operation = claims.trade(
            done, lanes, delete=delete, skip_touched=skip_touched, without=without, **taking
        )
        try:
            recorded, jobs = await self._database.run(operation)
        except BaseException as error:
            ended[:0] = _doubtful(done) if perhaps_done(error) else done
            self._apart = isinstance(error, StatementRefused) and not is_locked(error)
            if not is_locked(error):
                raise
            await self._write_free(done)
            del ended[: len(done)]
            claim = claims.claim(lanes, skip_touched=skip_touched, without=without, **taking)
            return await self._database.run(claim)
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
        """Record results of one kind, and take each off the list; a refusal is narrowed down to its row."""
        # Only plain successes wait for the locks of rows; what else is locked is the table.
        plain = bool(finished) and self._way_of(finished[0]) in ("complete", "delete")

        async def act(some: Sequence[Finished]) -> None:
            try:
                await self._write_all(list(some))
            except StatementRefused as error:
                if not (plain and is_locked(error)):
                    if len(some) > 1:
                        log.info(PARTS, len(some), error)
                    raise
                await self._write_free(list(some))

        await in_parts(finished, act, self._write_refused, divide=lambda e: not is_locked(e))

    async def _write_free(self, finished: list[Finished]) -> None:
        """Record plain successes whose rows nobody has locked; postpone the others."""
        done = await self._database.run(claims.complete_with(finished))
        await self._succeeded(await self._without_locked(finished, set(done)), set(done))
        self._settle(each for each, awaited in done.items() if awaited)

    async def _write_refused(self, finished: Finished, error: StatementRefused) -> None:
        """Record the same outcome without what may have been refused, or postpone it."""
        if self._seldom(error.state):
            log.error("job %d: its result was refused: %s", finished.id, error)
        less = outcomes_without(finished.outcome, str(error)) if is_final(error) else []
        for outcome in less:
            try:
                await self._write_all([finished._replace(outcome=outcome)])
                return
            except StatementRefused as again:
                if is_locked(again):
                    raise
        if finished.outcome.error_type == GIVEN_UP:
            log.error("job %d: left to its lease", finished.id)
            self._postponed.drop([finished.id])
        else:
            self._postponed.add(finished, refusal=str(error))

    async def _write_all(self, finished: list[Finished]) -> None:
        match self._way_of(finished[0]):
            case "complete" | "delete" as way:
                complete = claims.complete(finished, delete=way == "delete")
                done = await self._database.run(complete)
                await self._succeeded(finished, set(done))
            case "complete_with":
                await self._write_free(finished)
            case "completed":
                await self._completed(finished)
            case _:
                ended = await self._database.run(claims.fail(finished))
                others = await self._without_locked(finished, set(ended))
                self._count_missing(others, set(ended))
                await self.hold_again(
                    f.id
                    for f in others
                    if f.outcome.kind in ("snooze", "leave") and not f.run_seconds
                )
                self._failed(others, ended)

    async def _without_locked(
        self, finished: list[Finished], recorded: set[int], *, as_held: str = "held"
    ) -> list[Finished]:
        """Postpone those of the missing that can still be recorded: others have locked their rows."""
        missing = [each for each in finished if each.id not in recorded]
        if not missing:
            return finished
        became = await self._database.run(claims.recorded(missing))
        locked = {each.id for each in missing if became.get(each.id) == as_held}
        for each in missing:
            if each.id in locked:
                self._postponed.add(each)
        return [each for each in finished if each.id not in locked]

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
        locked: set[int] = set()
        if adding := [f for f in finished if f.id in done and _adds(f.outcome)]:
            added = await self._database.run(claims.add_results(adding))
            self._settle(each for each, awaited in added.items() if awaited)
            others = await self._without_locked(adding, set(added), as_held="succeeded")
            left = {f.id for f in others}
            locked = {f.id for f in adding if f.id not in left}
        for each in held:
            if (outcome := each.outcome.otherwise) is not None:
                await self._write([each._replace(outcome=outcome)])
        ended = [f for f in finished if f not in held and f.id not in locked]
        self._count_missing(ended, done)
        self._tell_of_successes(ended, done)
        self._ended(ended)

    def _failed(self, finished: list[Finished], ended: Mapping[int, Recorded]) -> None:
        self._ended(finished)
        self._settle(each for each, recorded in ended.items() if recorded.awaited)
        for each in finished:
            recorded = ended.get(each.id)
            if recorded and each.job and _is_news(each, recorded):
                report(each.job, each.outcome, recorded)
                self._hooking.failed(each, recorded)

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
        if self._postponed:
            self._postponed.drop(each.id for each in finished)
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


def _is_news(each: Finished, recorded: Recorded) -> bool:
    """Is it an end of an attempt that people and hooks are told of, no job given back or left for others?"""
    left = each.outcome.kind == "leave" and recorded.status is Status.PENDING
    return each.outcome.error_type is not None and not left


def _doubtful(finished: list[Finished]) -> list[Finished]:
    return [each._replace(doubtful=True) for each in finished]


def is_locked(error: BaseException) -> bool:
    """Did the statement wait too long for a lock of another session?"""
    return isinstance(error, StatementRefused) and error.state == LOCK_NOT_AVAILABLE


def is_final(error: StatementRefused) -> bool:
    """Would the database refuse the same again? A time limit or a deadlock may be gone the next time."""
    return error.state != TOO_LONG and verdict(error.state) is Verdict.REFUSED


def outcomes_without(outcome: Outcome, reason: str) -> list[Outcome]:
    """The same outcome with less of what a database may refuse: first in ASCII, then without any text but why."""
    note = f"its result was refused: {reason}"
    if outcome.kind in ("succeeded", "completed"):
        said = replace(outcome, result=None, error=_ascii(note), log=_ascii(outcome.log))
        return [said, replace(said, log=None), Outcome(outcome.kind)]
    said = replace(
        outcome,
        error_type=_ascii(outcome.error_type),
        error=_ascii(outcome.error),
        traceback=_ascii(outcome.traceback),
        log=_ascii(outcome.log),
    )
    return [
        said,
        *(
            Outcome(outcome.kind, outcome.delay, error_type, _ascii(note))
            for error_type in (said.error_type, GIVEN_UP)
        ),
    ]


def _ascii(text: str | None) -> str | None:
    if text is None:
        return None
    return text.replace("\0", "\\0").encode("ascii", "backslashreplace").decode("ascii")


def _given_up(entry: Entry) -> Finished:
    """The last resort: dead, for a result that cannot be recorded as what it is."""
    kind = entry.finished.outcome.kind
    text = f"it {ENDED_AS.get(kind, kind)}, but its result was refused: {entry.refusal}"
    return entry.finished._replace(outcome=Outcome("dead", None, GIVEN_UP, _ascii(text)))
