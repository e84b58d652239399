"""The application: its tasks, and the way to its database."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from pgqueue import config
from pgqueue.awaited import Awaits
from pgqueue.checks import flag, several
from pgqueue.client import AsyncClient, Client
from pgqueue.composing import Composes
from pgqueue.connections import Connections
from pgqueue.context import Context
from pgqueue.databases import check_dsns, current
from pgqueue.declared import Declares
from pgqueue.definition import Definition, TaskOptions, function_definition
from pgqueue.dispatch import Dispatch, Job, JobClasses
from pgqueue.errors import ConfigError, TaskError
from pgqueue.gateway import Gateway
from pgqueue.hooks import Hooks
from pgqueue.instead import Instead
from pgqueue.job import Added, JobRow, NewJob, check_jobs, check_name
from pgqueue.keys import Keys
from pgqueue.limiter import NotifyLimiter
from pgqueue.operations.limits import Declared
from pgqueue.privacy import Privacy
from pgqueue.redact import Redaction
from pgqueue.sql import check_schema
from pgqueue.task import (
    Handle,
    NamedTask,
    Task,
    TaskDecorator,
    handles,
)

J = TypeVar("J", bound=Job)
P = ParamSpec("P")
R = TypeVar("R")
_NOTHING = nullcontext()


class App(Composes, Declares, Awaits, Hooks):
    """Tasks and a database. Opens nothing until it is used.

    Args:
        dsn: any DSN that libpq reads; else ``PGQUEUE_DSN``, ``pgqueue.toml``, ``[tool.pgqueue]``,
            or the ``PG*`` variables of libpq. A list of several is for an application of several
            databases: workers serve all, and jobs are enqueued on connections of its own.
        schema: the PostgreSQL schema of the queue.
        notify: wake idle workers when jobs are enqueued; without it they poll.
        redact: names of arguments to mask besides the usual ones (``password``, ``token``, ...) and
            those of the setting ``redact``; ``-token`` takes one off.
        keys: for ``Secret`` arguments; default ``PGQUEUE_KEYS``.
    """

    def __init__(
        self,
        dsn: str | Sequence[str] | None = None,
        *,
        schema: str | None = None,
        notify: bool = True,
        redact: Collection[str] = (),
        keys: Keys | None = None,
    ) -> None:
        super().__init__()
        self._dsns = None if dsn is None else check_dsns(dsn)
        self._schema = None if schema is None else check_schema(schema)
        self._redact, self._given_keys = several(redact, "redact", "names"), keys
        Redaction().plus(self._redact)
        if keys is not None and not isinstance(keys, Keys):
            raise ConfigError("keys must be a Keys, such as Keys(text), got another type")
        self._notify = flag(notify, "notify")
        self._limiter = NotifyLimiter()
        self._gateways: dict[str, Gateway] = {}
        self.instead: Instead | None = None  # of the insert: set by pgqueue.testing
        self.tasks: dict[str, Definition] = {}
        self._job_classes = JobClasses(self.tasks)
        self.client = Client(lambda operation, on: self._way(on).run(operation, on), self._edited)
        self.aclient = AsyncClient(
            lambda operation, on: self._way(on).arun(operation, on), self._edited
        )

    @property
    def dsns(self) -> tuple[str, ...]:
        """The DSNs of all databases; they may hold passwords."""
        if self._dsns is None:
            self._dsns = (config.load().dsn or "",)
        return self._dsns

    @property
    def dsn(self) -> str:
        """The DSN in use; of several, that of the job that runs.

        Raises:
            ConfigError: there are several, and no job runs.
        """
        return current(self.dsns)

    @property
    def schema(self) -> str:
        """The PostgreSQL schema in use."""
        if self._schema is None:
            self._schema = config.load().schema
        return self._schema

    @cached_property
    def privacy(self) -> Privacy:
        """What is masked, and the keys."""
        settings = config.load()
        keys = self._given_keys
        if keys is None and settings.keys:
            keys = Keys.parse(settings.keys)
        return Privacy(Redaction().plus(settings.redact).plus(self._redact), keys)

    @property
    def keys(self) -> Keys | None:
        """The keys of encrypted arguments, if there are any."""
        return self.privacy.keys

    def use(self, *, dsn: str | Sequence[str] | None = None, schema: str | None = None) -> None:
        """Go to other databases or another schema from now on; None leaves each as it is."""
        self._dsns = self._dsns if dsn is None else check_dsns(dsn)
        self._schema = self._schema if schema is None else check_schema(schema)
        self.close()
        self._gateways = {}

    def _way(self, on: object) -> Gateway:
        """The way to the database; to any, if the caller gave a connection ``on`` one."""
        gateway = self._gateway(on)
        return gateway if on is not None or self.instead is None else self.instead.way(gateway)

    def _gateway(self, on: object) -> Gateway:
        dsn = self.dsn if on is None else self.dsns[0]
        if (gateway := self._gateways.get(dsn)) is None:
            gateway = self._gateways[dsn] = Gateway(dsn, self.schema)
        return gateway

    @property
    def connections(self) -> Connections:
        """Pools for handlers and tests: ``.sync()`` gives a psycopg connection, ``.aio()`` an asyncpg one."""
        return self._gateway(None).connections

    @overload
    def task(self, function: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(  # type: ignore[misc]
        self, function: Any = None, /, **options: Unpack[TaskOptions]
    ) -> Any:
        """Make a function a task.

        Args:
            function: as plain ``@app.task``, without options.
            name: stored with each job; default ``module.function``. Keep it when you move the function.
            queue: where its jobs go.
            priority: higher runs first, -32768 to 32767.
            max_retries: runs after the first, 0 to 1000.
            backoff: wait before a retry: a duration (doubled after each failure) or a ``Backoff``.
            timeout: longest run. Async: cancelled. Process: killed. Thread: asked to stop.
            run: "thread" (default of ``def``), "process", or "async" (``async def``).
            retry_on: exceptions that are retried; any other is dead at once. Default: all.
            aliases: earlier names, whose jobs it runs as well.
            redact: names of arguments to mask besides the app's.
            unique: no second job of the same arguments (True), of the same chosen ones (names), or as a
                ``Unique`` says, while the first has not finished.
            result: keep what it returns, for ``handle.result()``.
            limit, rate, burst, per: how many run at once, how many start in a time ("100/min"), how many of
                those at once after a quiet time; over all workers, for each value of the argument ``per``.
            order_by: an argument; jobs of one value run one by one in the order they were enqueued.
                ``ordered="skip"`` lets the next pass one that waits for its retry.
            fair_by: an argument; its values take turns, with ``weights`` jobs a turn instead of one.
            expires: do not start it later than this after it was due; it is cancelled instead.
            when: ``cron`` or ``every``, ``tz``, ``catch_up``, ``overlap``: a schedule of its name, as by
                ``cron()``; the task then needs no arguments.

        Raises:
            ConfigError: an option is out of range, or the schedule cannot be read.
            TaskError: the function cannot be a task, or the name is taken.
        """
        define, when = function_definition(options)

        def register(function: Callable[..., Any]) -> Task[Any, Any]:
            if not callable(function) or isinstance(function, type):
                raise TaskError(f"@app.task takes a function, got {function!r}")
            definition = define(function)
            definition.check_early()
            for each in (definition.name, *definition.aliases):
                if each in self.tasks or each in self._job_classes:
                    raise TaskError(f"two tasks are named {each}: give one of them another name=")
                self.tasks[each] = definition
            made: Task[Any, Any] = Task(definition, self)
            if when:
                self._declare_task(made, when)
            return made

        return register if function is None else register(function)

    def job(self, cls: type[J]) -> type[J]:
        """Let a job class belong to this app: ``@app.job``. Needed where a process has several apps.

        Raises:
            TaskError: it has no ``handle()``, or one of its names is taken.
        """
        self._job_classes.add(cls, decorated=True)
        return cls

    def definition(self, name: str) -> Definition | None:
        """The task or job class of this name, if this process knows it."""
        return self.tasks.get(name) or self._job_classes.get(name)

    @property
    def definitions(self) -> list[Definition]:
        """The tasks and job classes of this app.

        Raises:
            TaskError: two of them have one name.
        """
        return [*dict.fromkeys(self.tasks.values()), *self._job_classes.all()]

    def names(self) -> set[str]:
        """The names of all tasks and job classes that this process knows, earlier ones as well."""
        return {name for each in self.definitions for name in (each.name, *each.aliases)}

    def check(self) -> None:
        """See whether a worker can read the arguments of every task; workers and commands that load the app do.

        Raises:
            TaskError: an annotation does not resolve, or an argument cannot be stored.
        """
        for each in self.definitions:
            each.check()

    def settings_declared(self) -> Declared:
        """What the code says of tasks and queues: their limits, and what their jobs get.

        Raises:
            TaskError: a task cannot be used as it is declared.
        """
        tasks = {each.name: each.declared() for each in self.definitions}
        queues = {name: each.as_dict() for name, each in self.queue_settings.items()}
        return Declared(tasks, queues)

    def _edited(self, job: JobRow, args: Mapping[str, Any]) -> Mapping[str, Any]:
        known = self.definition(job.task)
        if known is None:
            raise ConfigError(
                f"which arguments of {job.task} are secret is not known to this app: edit them with the"
                " app that has the task (--app module:name on the command line)"
            )
        return self.privacy.edited(job.task, job.args, args, known.signature.encrypted)

    def dispatch(self, job: Job) -> Dispatch:
        """Enqueue an instance of a job class: ``await app.dispatch(job).with_max_retries(5)``."""
        self._job_classes.add(type(job), decorated=False)
        return Dispatch(job, self)

    def named(self, name: str) -> NamedTask:
        """A task by its name, for code that does not import it: ``app.named("shop.send").enqueue(order=7)``.

        Any name will do, also of a task that no worker has yet. If this app has the task, it is as if that was used.

        Raises:
            ConfigError: no task can have this name.
        """
        return NamedTask(check_name(name), self)

    def enqueue_many(self, jobs: Iterable[NewJob], *, on: object = None) -> list[Handle[Any]]:
        """Insert jobs made by ``task.call(...)``, all or none; handles in the same order.

        Args:
            jobs: any number; from 500 on they are copied in where the connection can.
            on: the caller's connection; without it they are a transaction of their own.
        """
        jobs = several(jobs, "jobs", "what task.call(...) returns")
        return handles(jobs, self.send_jobs(jobs, on), self)

    async def aenqueue_many(
        self, jobs: Iterable[NewJob], *, on: object = None
    ) -> list[Handle[Any]]:
        """The same, awaited."""
        jobs = several(jobs, "jobs", "what task.call(...) returns")
        return handles(jobs, await self.asend_jobs(jobs, on), self)

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added]:
        check_jobs(jobs)
        if not jobs:
            return []
        if self.instead is not None and (taken := self.instead.send_jobs(jobs, on)) is not None:
            return taken
        with self._around(jobs):
            jobs = self._admit(jobs, on) if self.queues else jobs
            return self._way(on).insert(jobs, notify=self._may_notify(jobs), on=on)

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added]:
        check_jobs(jobs)
        if not jobs:
            return []
        if (
            self.instead is not None
            and (taken := await self.instead.asend_jobs(jobs, on)) is not None
        ):
            return taken
        with self._around(jobs):
            jobs = await self._aadmit(jobs, on) if self.queues else jobs
            return await self._way(on).ainsert(jobs, notify=self._may_notify(jobs), on=on)

    def _around(self, jobs: Sequence[NewJob]) -> AbstractContextManager[object]:
        return self._enqueueing(jobs) if self.around_enqueues else _NOTHING

    def _may_notify(self, jobs: Sequence[NewJob]) -> bool:
        if not self._notify:
            return False
        queues = {job.queue or f"of task {job.task}" for job in jobs}
        return self._limiter.allows(queues, time.monotonic())

    def close(self) -> None:
        """Close the app's own connections; it may be used again."""
        for gateway in self._gateways.values():
            gateway.connections.close()

    async def aclose(self) -> None:
        """Close the app's own connections, those of the running event loop as well."""
        for gateway in self._gateways.values():
            await gateway.connections.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, *_: type[BaseException] | BaseException | TracebackType | None
    ) -> None:
        await self.aclose()
