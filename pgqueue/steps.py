"""Steps of a job that are done once, however often it runs; sleeps and waits that hold no worker."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

import msgspec

from pgqueue.annotations import hint_of
from pgqueue.checks import shown
from pgqueue.control import Control, leaves_of
from pgqueue.drivers import (
    async_driver,
    async_transaction,
    sqlstate,
    sync_driver,
    sync_transaction,
    translate,
)
from pgqueue.durations import LONGEST, Duration, check_timeout, seconds
from pgqueue.errors import (
    ArgumentsError,
    ClaimLost,
    ConfigError,
    PgQueueError,
    StepChanged,
    StepError,
    StepNotStored,
)
from pgqueue.interruptible import interruptible
from pgqueue.job import ClaimedJob, Status, check_max_retries, check_run_at
from pgqueue.operations import Operation, steps
from pgqueue.operations.jobs import End
from pgqueue.operations.steps import Awaited, Stored
from pgqueue.outcome import describe, worth_a_retry
from pgqueue.results import gone, result_text, result_value
from pgqueue.retry import Backoff, BackoffLike, RetryOn, backoff_from, errors_of
from pgqueue.running_steps import RunningSteps, inside_step
from pgqueue.sql import load
from pgqueue.text import one_line

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W", Awaited, steps.Ends)

log = logging.getLogger("pgqueue.job")

# SQLSTATEs of values that PostgreSQL cannot store: data exceptions, limits.
UNSTORABLE = ("22", "54")


class Event(NamedTuple):
    """The first of several events: its name, and what it was emitted with."""

    name: str
    payload: Any


class AnyHandle(Protocol):
    """The handle of a job, as ``enqueue()`` and ``app.handle(id, task)`` give it."""

    id: int

    def value_of(self, end: End) -> Any:
        """What the job returned, if it ended so."""


class _Ends(NamedTuple):
    """When a step of this thread is to have ended, by the monotonic clock."""

    step: str
    timeout: float
    at: float


_ENDS: ContextVar[_Ends | None] = ContextVar("pgqueue_step_ends", default=None)


def check_step_time() -> None:
    """Raise TimeoutError in a step of a thread whose time is over."""
    ends = _ENDS.get()
    if ends is not None and time.monotonic() > ends.at:
        raise TimeoutError(_ran_longer(ends.step, ends.timeout))


def _ran_longer(name: str, timeout: float) -> str:
    return f"step {name!r} ran longer than {timeout:g} s"


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """How often a step that fails is called again, after which waits, and how long it may take, in seconds."""

    max_retries: int = 0
    backoff: Backoff | None = None
    timeout: float | None = None
    retry_on: tuple[type[BaseException], ...] | None = None

    def retries(self, error: BaseException) -> int:
        """How often a step that failed so is called again."""
        steers = any(isinstance(each, Control | ClaimLost) for each in leaves_of(error))
        return self.max_retries if not steers and worth_a_retry(error, self.retry_on) else 0


NO_POLICY = StepPolicy()


class Durable:
    """The part of a handler's context that survives it.

    A handler that was retried, or that slept, runs from its beginning; what its steps returned comes from
    the database, so it must reach the same steps by the same names. Async handlers await each verb, one after
    the other or at once, as with ``asyncio.gather``.
    """

    _job: ClaimedJob
    _schema: str
    _conceals: Callable[[ClaimedJob], Callable[[str], str]] | None = None
    _connect: Callable[..., AbstractContextManager[Any]]
    _aconnect: Callable[..., AbstractAsyncContextManager[Any]]

    def __init__(self) -> None:
        self.main: object = None  # the task or thread of the handler
        self.running_steps: RunningSteps | None = None
        self._stored: dict[str, Stored] | None = None
        self._met: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.progressed = False  # a step was done in this run

    @property
    def stepped(self) -> bool:
        """Has this run reached a step, a sleep or a wait?"""
        return bool(self._met)

    @overload
    def step(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...
    @overload
    def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function and store what it returned; in later runs of the job, return that instead.

        A crash between its end and the store calls it again: hand ``ctx.idempotency_key_of(name)`` to services,
        or write to this database by ``transaction_step``. A step that has begun is finished and stored before
        its job suspends or fails, whatever runs beside it.

        Args:
            name: of the step, once in a run: in a loop ``f"send {n}"``.
            function: sync in sync handlers, async in async ones. What it returns must be JSON, at most 1 MB.

        Raises:
            ClaimLost: the job is no longer this worker's; nothing was stored.
            ConfigError: the name was used before in this run.
            StepChanged: what is stored by this name is no step, or of another type.
            StepNotStored: what it returned cannot be stored; it is not called again.
        """
        return self._step(NO_POLICY, name, function, args, kwargs)

    def with_options(
        self,
        *,
        max_retries: int = 0,
        backoff: BackoffLike | None = None,
        timeout: Duration | None = None,
        retry_on: RetryOn = None,
    ) -> StepOptions:
        """Steps with retries and a timeout of their own: ``ctx.with_options(max_retries=3).step("charge", charge, 7)``.

        While a step that failed waits for its next try, the job holds no worker, and uses no attempt.

        Args:
            max_retries: how often the function is called again after it has raised, 0 to 1,000; then its error is the
                handler's. In each attempt of the job anew.
            backoff: the wait after the first failure, which doubles, or a ``Backoff``; default as for jobs: 10 s, 1 h at most.
            timeout: of each call. An async function is cancelled, with TimeoutError. A thread cannot be stopped:
                ``ctx.check()`` in it raises TimeoutError, and what it returns late is stored.
            retry_on: a class of exceptions, or a list; others are not retried. Default: all.

        Raises:
            ConfigError: one of them is out of range.
        """
        policy = StepPolicy(
            check_max_retries(max_retries),
            None if backoff is None else backoff_from(backoff),
            None if timeout is None else check_timeout(timeout),
            errors_of(retry_on),
        )
        return StepOptions(self, policy)

    def _step(
        self,
        policy: StepPolicy,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._meet(name, suspends=policy.max_retries > 0)
        kind = _returned(function)
        if inspect.iscoroutinefunction(function):
            return self._astep(policy, name, kind, lambda: function(*args, **kwargs))
        _no_loop(f"ctx.step({name!r})", function)
        stored = self._stored_here().get(name)
        if _to_be_done(stored):
            left = self._left_here(stored)
            call = lambda: self._within_here(  # noqa: E731
                policy.timeout, name, lambda: function(*args, **kwargs)
            )
            if left is None:
                with self._get_running_steps().step_here():
                    began = time.monotonic()
                    left, value = self._try_here(policy, name, stored, call)
                    stored = self._save(name, kind, value, began) if left is None else None
            if left is not None:
                raise self._get_running_steps().suspend_here(left)
        return self._again(name, stored, kind)

    @staticmethod
    def _left_here(stored: Stored | None) -> float | None:
        """The seconds until a step that failed is called again; None if that is now."""
        return None if stored is None else stored.left or None

    async def _astep(
        self, policy: StepPolicy, name: str, kind: Any, call: Callable[[], Awaitable[Any]]
    ) -> Any:
        self._get_running_steps().enter()
        stored = (await self._astored_here()).get(name)
        if _to_be_done(stored):
            stored = await self._aonce(
                stored, partial(self._done, policy, name, kind, stored, call)
            )
        return self._again(name, stored, kind)

    async def _aonce(
        self, stored: Stored | None, done: Callable[[], Coroutine[Any, Any, Stored | float]]
    ) -> Stored:
        """Do a step, or suspend until it is to be tried again."""
        left = self._left_here(stored)
        if left is None:
            became = await self._get_running_steps().step(done)
            if isinstance(became, Stored):
                return became
            left = became
        raise await self._get_running_steps().suspend(left)

    def _try_here(
        self, policy: StepPolicy, name: str, stored: Stored | None, call: Callable[[], T]
    ) -> tuple[float | None, T | Any]:
        """Call the function of a step; what it returned, or in how many seconds it is called again."""
        began = time.monotonic()
        try:
            return None, call()
        except Exception as error:
            if (note := self._failure(policy, name, stored, error, began)) is None:
                raise
            if (left := self._do(note)) is None:
                raise
            self._say_failed(name, error, left)
            return left, None

    async def _atry(
        self, policy: StepPolicy, name: str, stored: Stored | None, call: Callable[[], Awaitable[T]]
    ) -> tuple[float | None, T | Any]:
        """The same, awaited; cancelled at its timeout."""
        began = time.monotonic()
        try:
            return None, await call()
        except Exception as error:
            if (note := self._failure(policy, name, stored, error, began)) is None:
                raise
            if (left := await self._ado(note)) is None:
                raise
            self._say_failed(name, error, left)
            return left, None

    def _within_here(self, timeout: float | None, name: str, call: Callable[..., T]) -> T:
        """Call the function of a step, whose ``ctx.check()`` raises TimeoutError once its time is over."""
        if timeout is None:
            return call()
        began = time.monotonic()
        token = _ENDS.set(_Ends(name, timeout, began + timeout))
        try:
            value = call()
        finally:
            _ENDS.reset(token)
        self._say_late(timeout, name, time.monotonic() - began)
        return value

    async def _within(
        self, timeout: float | None, name: str, call: Callable[[], Awaitable[T]]
    ) -> T:
        """The same, awaited; it is cancelled when its time is over."""
        if timeout is None:
            return await call()
        began, limit = time.monotonic(), asyncio.timeout(timeout)
        try:
            async with limit:
                value = await call()
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(_ran_longer(name, timeout)) from None
            raise
        self._say_late(timeout, name, time.monotonic() - began)
        return value

    def _failure(
        self, policy: StepPolicy, name: str, stored: Stored | None, error: Exception, began: float
    ) -> Operation[float | None] | None:
        """What notes a failure; None if there is nothing to note, since it is not tried again."""
        retries = policy.retries(error)
        if not retries and stored is None:
            return None
        kind, text, _ = describe(error, self._conceal())
        # Of what may hold secrets only its kind is stored.
        why = f"{kind}: {text}" if self._conceals is not None else kind
        return steps.fail(
            self._job,
            name,
            one_line(why),
            max_retries=retries,
            backoff=None if policy.backoff is None else policy.backoff.as_json(),
            seconds=time.monotonic() - began,
        )

    def _conceal(self) -> Callable[[str], str]:
        return str if self._conceals is None else self._conceals(self._job)

    def _say_failed(self, name: str, error: Exception, left: float) -> None:
        kind, text, _ = describe(error, self._conceal())
        self._say(f"step {name!r} failed, it is called again in {left:.3g} s: {kind}: {text}")

    def _say_late(self, timeout: float, name: str, took: float) -> None:
        if took > timeout:
            self._say(
                f"step {name!r} returned after {took:.3g} s, and its timeout is {timeout:g} s: it is stored"
            )

    def _say(self, text: str) -> None:
        with suppress(Exception):  # a closed stderr or a broken filter must not cost a result
            log.warning("job %d (%s) %s", self._job.id, one_line(self._job.task), one_line(text))

    async def _done(
        self,
        policy: StepPolicy,
        name: str,
        kind: Any,
        stored: Stored | None,
        call: Callable[[], Awaitable[Any]],
    ) -> Stored | float:
        began = time.monotonic()
        left, value = await self._atry(
            policy, name, stored, partial(self._within, policy.timeout, name, call)
        )
        if left is not None:
            return left
        text, why = _storable(value, kind)
        save = partial(steps.save, self._job, name, seconds=time.monotonic() - began)
        self.progressed = True
        if why is None:
            try:
                return Stored("step", True, await self._ado(save(text)))
            except Exception as error:
                why = _unstorable(error)
        await self._ado(save(None, error=why))
        return Stored("step", True, None, why)

    def _save(self, name: str, kind: Any, value: Any, began: float) -> Stored:
        text, why = _storable(value, kind)
        save = partial(steps.save, self._job, name, seconds=time.monotonic() - began)
        self.progressed = True
        if why is None:
            try:
                return Stored("step", True, self._do(save(text)))
            except Exception as error:
                why = _unstorable(error)
        self._do(save(None, error=why))
        return Stored("step", True, None, why)

    def _again(self, name: str, stored: Stored | None, kind: Any) -> Any:
        """What a step returned, now or in an earlier run."""
        assert stored is not None
        if stored.kind != "step":
            raise StepChanged(steps.changed(self._job.id, name, stored, "a step"))
        if stored.error is not None:
            raise StepNotStored(
                f"step {name!r} of job {self._job.id} was done, and what it returned cannot be stored"
                f" ({stored.error}): it is not done again. Let it return what can be, then do it anew:"
                f" pgqueue retry {self._job.id} --from-step {name!r}"
            )
        try:
            return result_value(stored.result or "null", kind)
        except (msgspec.MsgspecError, ValueError, NotImplementedError) as error:
            raise StepChanged(
                f"what step {name!r} of job {self._job.id} returned is stored, and does not fit the type that it"
                f" returns in this code ({error}): give what is new another name, or do it anew: pgqueue retry"
                f" {self._job.id} --from-step {name!r}"
            ) from None

    def transaction_step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        on: object = None,
        **kwargs: Any,
    ) -> Any:
        """The same in a transaction: what the function writes and its result commit together, once.

        Args:
            function: its first argument is the connection: psycopg in sync handlers, asyncpg in async ones.
            on: a connection or session of your own, on the database of the queue, which the function gets instead:
                SQLAlchemy's, Django's, psycopg's or asyncpg's. What it has begun is committed too.

        Raises:
            StepNotStored: what it returned cannot be stored; the transaction was rolled back.
            ConnectionUnusable: ``on`` cannot be used.
        """
        return self._transaction_step(NO_POLICY, name, function, args, kwargs, on)

    def _transaction_step(
        self,
        policy: StepPolicy,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on: object,
    ) -> Any:
        self._meet(name, suspends=policy.max_retries > 0)
        kind = _returned(function)
        if inspect.iscoroutinefunction(function):
            call = lambda c: function(c, *args, **kwargs)  # noqa: E731
            return self._atransaction_step(policy, name, kind, call, on)
        _no_loop(f"ctx.transaction_step({name!r})", function)

        def done() -> Stored:
            began = time.monotonic()
            with self._transaction_on(on) as connection:
                value = self._within_here(
                    policy.timeout, name, lambda: function(connection, *args, **kwargs)
                )
                text = self._text(name, value, kind)
                save = steps.save(self._job, name, text, seconds=time.monotonic() - began)
                saved = Stored("step", True, self._do(save, connection))
            self.progressed = True
            return saved

        stored = self._stored_here().get(name)
        if _to_be_done(stored):
            left = self._left_here(stored)
            if left is None:
                with self._get_running_steps().step_here():
                    left, stored = self._try_here(policy, name, stored, done)
            if left is not None:
                raise self._get_running_steps().suspend_here(left)
        return self._again(name, stored, kind)

    async def _atransaction_step(
        self,
        policy: StepPolicy,
        name: str,
        kind: Any,
        call: Callable[[Any], Awaitable[Any]],
        on: object,
    ) -> Any:
        async def done() -> Stored:
            began = time.monotonic()
            async with self._atransaction_on(on) as connection:
                value = await self._within(policy.timeout, name, lambda: call(connection))
                text = self._text(name, value, kind)
                save = steps.save(self._job, name, text, seconds=time.monotonic() - began)
                saved = Stored("step", True, await self._ado(save, connection))
            self.progressed = True
            return saved

        async def tried() -> Stored | float:
            left, saved = await self._atry(policy, name, stored, done)
            return saved if left is None else left

        self._get_running_steps().enter()
        stored = (await self._astored_here()).get(name)
        if _to_be_done(stored):
            stored = await self._aonce(stored, tried)
        return self._again(name, stored, kind)

    def _text(self, name: str, value: Any, kind: Any) -> str:
        text, why = _storable(value, kind)
        if text is None:
            raise StepNotStored(
                f"what step {name!r} of job {self._job.id} returned cannot be stored ({why}): its transaction was"
                " rolled back"
            )
        return text

    @contextmanager
    def _transaction_on(self, on: object) -> Any:
        if on is None:
            with self._connect() as connection, connection.transaction():
                yield connection
        else:
            with sync_transaction(on):
                yield on

    @asynccontextmanager
    async def _atransaction_on(self, on: object) -> Any:
        if on is None:
            async with self._aconnect() as connection, interruptible(connection):
                yield connection
        else:
            async with async_transaction(on):
                yield on

    def sleep(self, duration: Duration, *, name: str = "sleep") -> Any:
        """Go on after a time, 365 days at most; meanwhile the job holds no worker, and uses no attempt.

        Args:
            name: of the sleep, once in a run; a second one needs a name of its own.

        Raises:
            StepChanged: what is stored by this name is no sleep.
        """
        self._meet(name, suspends=True)
        return self._sleep(steps.sleep(self._job, name, seconds(duration, name="duration")))

    def sleep_until(self, moment: datetime, *, name: str = "sleep") -> Any:
        """Go on at a time, by the clock of the database; at once if it has passed.

        Args:
            moment: with a time zone. That of the first run counts: it is stored.
            name: of the sleep, once in a run; a second one needs a name of its own.

        Raises:
            ConfigError: it has no time zone.
            StepChanged: what is stored by this name is no sleep.
        """
        self._meet(name, suspends=True)
        return self._sleep(
            steps.sleep_until(self._job, name, check_run_at(moment, "the moment of sleep_until"))
        )

    def _sleep(self, operation: Operation[float]) -> Any:
        if _in_loop():
            return self._asleep(operation)
        if (left := self._do(operation)) > 0:
            raise self._get_running_steps().suspend_here(left)
        return self._get_running_steps().passed()

    async def _asleep(self, operation: Operation[float]) -> None:
        self._get_running_steps().enter()
        if (left := await self._ado(operation)) > 0:
            raise await self._get_running_steps().suspend(left)
        self._get_running_steps().passed()

    def wait_for_event(
        self,
        event: str | Sequence[str],
        timeout: Duration | None = None,
        *,
        name: str | None = None,
    ) -> Any:
        """Wait for an event, and return its payload; meanwhile the job holds no worker.

        The first of this name that was emitted since the job was enqueued, and that it has not had yet. Of several
        names, the first event of any: as ``Event(name, payload)``.

        Args:
            event: its name, or a list of names.
            timeout: the longest to wait; None and the most: 365 days.
            name: of the wait, once in a run; default ``event`` and the event's name.

        Raises:
            TimeoutError: it did not come in time.
            StepChanged: what is stored by this name waits for something else.
        """
        several = not isinstance(event, str)
        names = list(event) if several else [str(event)]
        return self._wait(names, timeout, name, several=several, sent=False)

    def receive(
        self, message: str, timeout: Duration | None = None, *, name: str | None = None
    ) -> Any:
        """Wait for a message to this job, and return its payload; meanwhile the job holds no worker.

        The first of this name that was sent by ``app.send(job_id, message, payload)`` and that it has not had yet.

        Args:
            timeout: the longest to wait; None and the most: 365 days.
            name: of the wait, once in a run; default ``message`` and the message's name.

        Raises:
            TimeoutError: it did not come in time.
            StepChanged: what is stored by this name waits for something else.
        """
        return self._wait([message], timeout, name, several=False, sent=True)

    def result_of(
        self, handle: AnyHandle, timeout: Duration | None = None, *, name: str | None = None
    ) -> Any:
        """Wait for another job to end, and return what it returned; meanwhile this job holds no worker.

        The result is stored as that of a step. Enqueue the other job in a step, so that a later run of this one comes
        with the same job: ``app.handle(await ctx.step("enqueue", enqueue), task)``.

        Args:
            handle: of a job whose task has ``result=True``.
            timeout: the longest to wait; None and the most: 365 days.
            name: of the wait, once in a run; default ``result``, of the second in a run ``result 2``, and so on.

        Raises:
            JobFailed: it is dead or cancelled. This is not stored: the next run looks again.
            ResultMissing: its task keeps no results, or it is gone. The next run looks again.
            TimeoutError: it did not end in time.
            StepChanged: what is stored by this name is no wait, or one for other jobs.
        """
        return self._join([handle], timeout, self._numbered("result", name), several=False)

    def gather(
        self, *handles: AnyHandle, timeout: Duration | None = None, name: str | None = None
    ) -> Any:
        """Wait for other jobs to end, and return a list of what they returned, in this order; as ``result_of``.

        Args:
            handles: of jobs whose tasks have ``result=True``.
            timeout: the longest to wait for all; None and the most: 365 days.
            name: of the wait, once in a run; default ``gather``, of the second in a run ``gather 2``, and so on.

        Raises:
            JobFailed: one is dead or cancelled; raised when all have ended.
            ResultMissing: the task of one keeps no results, or it is gone.
            TimeoutError: they did not end in time.
            StepChanged: what is stored by this name is no wait, or one for other jobs.
        """
        return self._join(list(handles), timeout, self._numbered("gather", name), several=True)

    def _numbered(self, what: str, name: str | None) -> str:
        """A name of its own for each wait of a run that is given none."""
        if name is not None:
            return name
        number = self._numbers[what] = self._numbers.get(what, 0) + 1
        return what if number == 1 else f"{what} {number}"

    def _join(
        self, handles: list[AnyHandle], timeout: Duration | None, name: str, *, several: bool
    ) -> Any:
        for handle in handles:
            if not hasattr(handle, "value_of"):
                raise ConfigError(
                    f"to wait for a job takes its handle, as enqueue() and app.handle(id, task) give it, got {shown(handle)}"
                )
            if handle.id == self._job.id:
                raise ConfigError(f"job {handle.id} would wait for itself")
        self._meet(name, suspends=True)
        limit = LONGEST if timeout is None else seconds(timeout, name="timeout")
        job_ids = list(dict.fromkeys(handle.id for handle in handles))
        operation = steps.await_jobs(self._job, name, job_ids, limit)

        def read(found: steps.Ends) -> Any:
            ends = _ends_of(found, job_ids)
            values = [handle.value_of(ends[handle.id]) for handle in handles]
            return values if several else values[0]

        return self._looked(operation, read)

    def _wait(
        self,
        events: list[str],
        timeout: Duration | None,
        name: str | None,
        *,
        several: bool,
        sent: bool,
    ) -> Any:
        what = "message" if sent else "event"
        name = f"{what} {' or '.join(map(str, events))}" if name is None else name
        if several and len(name) > 200:
            raise ConfigError("the names of these events are long: give their wait a name=")
        self._meet(name, suspends=True)
        limit = LONGEST if timeout is None else seconds(timeout, name="timeout")
        operation = steps.wait(self._job, name, events, limit, sent=sent)
        names = " or ".join(map(repr, events))
        read = partial(_payload, what=f"{what} {names}", several=several)
        return self._looked(operation, read)

    def _looked(self, operation: Operation[W], read: Callable[[W], Any]) -> Any:
        """Look for what is waited for; suspend the job if it has not come."""
        if _in_loop():
            return self._alooked(operation, read)
        # The second look sees what was committed before the first one's wait was to be seen.
        found = self._do(operation)
        found = found if found.left == 0 else self._do(operation)
        if found.left > 0:
            raise self._get_running_steps().suspend_here(found.left)
        self._get_running_steps().passed()
        return read(found)

    async def _alooked(self, operation: Operation[W], read: Callable[[W], Any]) -> Any:
        """The same, awaited."""
        self._get_running_steps().enter()
        found = await self._ado(operation)
        found = found if found.left == 0 else await self._ado(operation)
        if found.left > 0:
            raise await self._get_running_steps().suspend(found.left)
        self._get_running_steps().passed()
        return read(found)

    def _meet(self, name: str, *, suspends: bool = False) -> None:
        if steps.check_step(name) in self._met:
            raise ConfigError(f"two steps of one run are named {name!r}: give each its own name")
        if suspends and inside_step(self.running_steps):
            raise StepError(
                f"{name!r} sleeps, waits or is retried in the function of a step, which would be called again: do it in the"
                " handler, between steps"
            )
        self._met.add(name)

    def _get_running_steps(self) -> RunningSteps:
        if self.running_steps is None:
            self.running_steps = RunningSteps(lambda: self.main)
        return self.running_steps

    def stop_steps(self) -> None:
        """The worker ends this run: its steps are cancelled."""
        if self.running_steps is not None:
            self.running_steps.stop()

    def _stored_here(self) -> dict[str, Stored]:
        if self._stored is None:
            with self._get_running_steps().reading:
                if self._stored is None:
                    self._stored = self._do(steps.stored(self._job))
        return self._stored

    async def _astored_here(self) -> dict[str, Stored]:
        if self._stored is None:
            async with self._get_running_steps().areading:
                if self._stored is None:
                    self._stored = await self._ado(steps.stored(self._job))
        return self._stored

    def _do(self, operation: Operation[T], on: Any = None) -> T:
        statement, values = load(self._schema)[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(sync_driver(on).fetch(statement, values))
            with self._connect(ours=True) as connection:
                return operation.decode(sync_driver(connection).fetch(statement, values))
        except Exception as error:
            raise translate(error, operation.statement) or error from error

    async def _ado(self, operation: Operation[T], on: Any = None) -> T:
        statement, values = load(self._schema)[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(await async_driver(on).fetch(statement, values))
            async with self._aconnect(ours=True) as connection:
                return operation.decode(await async_driver(connection).fetch(statement, values))
        except Exception as error:
            raise translate(error, operation.statement) or error from error


class StepOptions:
    """The steps of a context, with the options of ``ctx.with_options``."""

    def __init__(self, context: Durable, policy: StepPolicy) -> None:
        self._context, self._policy = context, policy

    @overload
    def step(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...
    @overload
    def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As ``ctx.step``, with these options."""
        return self._context._step(self._policy, name, function, args, kwargs)

    def transaction_step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        on: object = None,
        **kwargs: Any,
    ) -> Any:
        """As ``ctx.transaction_step``, with these options. A call that fails is rolled back."""
        return self._context._transaction_step(self._policy, name, function, args, kwargs, on)


def _to_be_done(stored: Stored | None) -> bool:
    return stored is None or (stored.kind == "step" and not stored.over)


def _returned(function: Callable[..., Any]) -> Any:
    return hint_of(function, "return", Any)


def _storable(value: Any, kind: Any) -> tuple[str | None, str | None]:
    """JSON text of what a step returned; or why there is none that gives it back."""
    try:
        text = result_text(value, kind)
        result_value(text, kind)
    except ArgumentsError as error:
        return None, str(error)
    except (msgspec.MsgspecError, ValueError, NotImplementedError) as error:
        return None, f"it is not what its function says to return: {error}"
    return text, None


def _unstorable(error: Exception) -> str:
    """Why PostgreSQL does not take a value; raises what is no fault of the value."""
    if isinstance(error, ArgumentsError):
        return str(error)
    if (sqlstate(error) or "").startswith(UNSTORABLE):
        return f"PostgreSQL refuses it: {error}".splitlines()[0]
    raise error


def _payload(found: Awaited, *, what: str, several: bool) -> Any:
    if not found.arrived:
        raise TimeoutError(f"{what} did not come in time")
    payload = None if found.payload is None else result_value(found.payload, Any)
    return Event(found.event or "", payload) if several else payload


class _JobEnd(msgspec.Struct):
    """What a job ended as, as ``pgqueue.await_jobs`` says it."""

    id: int
    status: str
    kept: bool
    result: msgspec.Raw


def _ends_of(found: steps.Ends, job_ids: Sequence[int]) -> dict[int, End]:
    """What jobs ended as, by id.

    Raises:
        TimeoutError: they have not.
        ResultMissing: one is gone.
    """
    if found.ends is None and job_ids:
        raise TimeoutError(f"jobs {', '.join(map(str, job_ids[:20]))} have not all ended in time")
    ends = {}
    for each in msgspec.json.decode(found.ends or "[]", type=list[_JobEnd]):
        if each.status == "gone":
            raise gone(each.id)
        result = bytes(each.result).decode() if each.kept else None
        ends[each.id] = End(each.id, Status(each.status), result)
    return ends


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _no_loop(call: str, function: object) -> None:
    if _in_loop():
        called = getattr(function, "__qualname__", repr(function))
        raise PgQueueError(
            f"{call} of an async handler takes an async function as a step, and is awaited: {called} is none (what"
            " blocks runs in asyncio.to_thread)"
        )
