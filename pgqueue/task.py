"""Tasks: named functions whose calls can be enqueued."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from pgqueue.codec import encode_untyped
from pgqueue.context import Context, running_context
from pgqueue.definition import Definition
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ArgumentsError, ConnectionUnusable, ResultMissing, WaitInHandler
from pgqueue.job import Added, NewJob, Placed, Status
from pgqueue.keys import Keys
from pgqueue.operations.jobs import End
from pgqueue.options import UNCHOSEN, Options, Verbs

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")


# Not frozen: that makes the handles of a bulk enqueue four times as dear.
@dataclass(slots=True, unsafe_hash=True)
class Handle(Generic[R]):
    """A job that was enqueued.

    ``placed``: "inserted", or what became of the job that holds its unique key already: it is left
    "existing", or was "replaced" or "rescheduled".
    """

    id: int
    task: str
    placed: Placed = "inserted"
    sender: Sender | None = field(default=None, repr=False, compare=False)

    @property
    def inserted(self) -> bool:
        """Is it a new job? If not, ``id`` is the one that holds the unique key."""
        return self.placed == "inserted"

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the job to end, and return what it returned; its task has ``result=True``.

        Args:
            timeout: the longest to wait; None for ever, 0 to look once. Commit first: a job of an open transaction
                never ends.

        Raises:
            JobFailed: it is dead or cancelled.
            JobNotFound: no job can have this id.
            WaitInHandler: a handler calls it with another timeout than 0: use ``ctx.result_of(handle)``.
            ResultMissing: its task keeps no results, or the row is gone.
            TimeoutError: it has not ended in time.
        """
        sender, limit = self._waits(timeout)
        result: R = sender.result_of(self, limit)
        return result

    async def aresult(self, timeout: Duration | None = None) -> R:
        """The same, awaited."""
        sender, limit = self._waits(timeout)
        result: R = await sender.aresult_of(self, limit)
        return result

    @overload
    def peek(self) -> R | None: ...
    @overload
    def peek(self, default: D) -> R | D: ...
    def peek(self, default: Any = None) -> Any:
        """What the job returned, or ``default`` if it has not ended; it never waits.

        Raises:
            JobFailed: it is dead or cancelled.
            JobNotFound: no job can have this id.
            ResultMissing: its task keeps no results, or the row is gone or not committed.
        """
        sender, _ = self._waits(0)
        return sender.peek_at(self, default)

    @overload
    async def apeek(self) -> R | None: ...
    @overload
    async def apeek(self, default: D) -> R | D: ...
    async def apeek(self, default: Any = None) -> Any:
        """The same, awaited."""
        sender, _ = self._waits(0)
        return await sender.apeek_at(self, default)

    def status(self) -> Status:
        """Where the job stands: a str as well, such as ``"pending"``.

        Raises:
            JobNotFound: the row is gone, or its transaction has not committed.
        """
        sender, _ = self._waits(0)
        return sender.status_of(self)

    async def astatus(self) -> Status:
        """The same, awaited."""
        sender, _ = self._waits(0)
        return await sender.astatus_of(self)

    def _waits(self, timeout: Duration | None) -> tuple[Sender, float | None]:
        if self.sender is None or self.id is None:
            raise ResultMissing("this handle has no app, or its job cannot be seen from here")
        limit = None if timeout is None else seconds(timeout, name="timeout")
        if limit != 0 and (context := running_context()) is not None:
            raise WaitInHandler(context.id, self.id)
        return self.sender, limit

    def value_of(self, end: End) -> R:
        """What a job that ended so returned: of ``result()`` and ``ctx.result_of()``.

        Raises:
            JobFailed: it is dead or cancelled.
            ResultMissing: its task keeps no results.
        """
        if self.sender is None:
            raise ResultMissing("this handle has no app")
        value: R = self.sender.value_of(self, end)
        return value


class Sender(Protocol):
    """What a task needs of its app."""

    @property
    def keys(self) -> Keys | None: ...

    def definition(self, name: str) -> Definition | None: ...

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added]: ...

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added]: ...

    def result_of(self, handle: Handle[Any], timeout: float | None) -> Any: ...

    async def aresult_of(self, handle: Handle[Any], timeout: float | None) -> Any: ...

    def peek_at(self, handle: Handle[Any], default: Any) -> Any: ...

    async def apeek_at(self, handle: Handle[Any], default: Any) -> Any: ...

    def status_of(self, handle: Handle[Any]) -> Status: ...

    async def astatus_of(self, handle: Handle[Any]) -> Status: ...

    def value_of(self, handle: Handle[Any], end: End) -> Any: ...


class Request(Verbs["Request[P, R]"], Generic[P, R]):
    """A task with options, ready to take arguments. Immutable."""

    def __init__(
        self, definition: Definition, app: Sender, options: Options, connection: object = None
    ) -> None:
        self.definition = definition
        self.options = options
        self._app = app
        self._connection = connection

    def _changed(self, options: Options) -> Request[P, R]:
        return Request(self.definition, self._app, options, self._connection)

    def on(self, connection: object) -> Request[P, R]:
        """Enqueue on the caller's connection, in its transaction, which is left as it is.

        Args:
            connection: a psycopg connection or cursor, asyncpg connection, SQLAlchemy connection or
                session (sync or async), or Django connection.

        Raises:
            ConnectionUnusable: it is None, where a connection was forgotten.
        """
        return Request(self.definition, self._app, self.options, given(connection))

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job for ``enqueue_many``; nothing is sent yet.

        Raises:
            ArgumentsError: the arguments do not fit the task or cannot be stored.
            ConfigError: some are to be encrypted and there are no keys.
        """
        text = self.definition.signature.encode(self.definition.name, args, kwargs, self._app.keys)
        return self.options.new_job(self.definition.name, text, self.definition.signature)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Insert the job; it runs once the transaction has committed.

        Raises:
            ArgumentsError: the arguments do not fit the task or cannot be stored.
            ConnectionUnusable: the connection given to ``on()`` is closed, async or unknown.
            JobExists: another job holds its unique key, and ``on_conflict`` is "raise".
            SchemaError: the database has no pgqueue schema.
        """
        job = self.call(*args, **kwargs)
        return handle(job, self._app.send_jobs([job], self._connection)[0], self._app)

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same, awaited, for async connections."""
        job = self.call(*args, **kwargs)
        return handle(job, (await self._app.asend_jobs([job], self._connection))[0], self._app)


class Task(Request[P, R]):
    """A named function. Calling it runs it here and now; ``enqueue`` leaves it to a worker."""

    def __init__(self, definition: Definition, app: Sender) -> None:
        super().__init__(definition, app, definition.options)
        self.__name__ = getattr(definition.function, "__name__", definition.qualname)
        self.__qualname__ = definition.qualname
        self.__module__ = getattr(definition.function, "__module__", definition.module)
        self.__doc__ = definition.function.__doc__

    @property
    def name(self) -> str:
        """The name stored with each job."""
        return self.definition.name

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        return self.definition.function

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.definition.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class NamedTask(Verbs["NamedTask"]):
    """A task by its name, for code that does not import the task. Immutable.

    What was not chosen with the ``with_*`` verbs is what the workers have declared of the task.
    """

    def __init__(
        self,
        name: str,
        app: Sender,
        options: Options = Options(queue=UNCHOSEN),
        connection: object = None,
    ) -> None:
        self.name = name
        self.options = options
        self._app = app
        self._connection = connection

    def __repr__(self) -> str:
        return f"<NamedTask {self.name}>"

    def _changed(self, options: Options) -> NamedTask:
        return NamedTask(self.name, self._app, options, self._connection)

    def on(self, connection: object) -> NamedTask:
        """Enqueue on the caller's connection, in its transaction, as ``Task.on`` does."""
        return NamedTask(self.name, self._app, self.options, given(connection))

    def call(self, /, *args: Any, **arguments: Any) -> NewJob:
        """A job for ``enqueue_many`` or a workflow; nothing is sent yet.

        Args:
            arguments: by the names of the task's parameters.

        Raises:
            ArgumentsError: they cannot be stored as JSON, or were not given by name.
            ConfigError: ``with_unique`` was given no key.
        """
        if args:
            raise ArgumentsError(
                f"arguments of {self.name}: give them by the names of its parameters, which are not known here"
            )
        if (known := self._app.definition(self.name)) is not None:
            return Request[Any, Any](known, self._app, self.options.over(known.options)).call(
                **arguments
            )
        text = encode_untyped(self.name, arguments)
        return self.options.new_job(self.name, text, by_name=True)

    def enqueue(self, /, *args: Any, **arguments: Any) -> Handle[Any]:
        """Insert the job; it runs once the transaction has committed, and waits while no worker has the task.

        Raises:
            ArgumentsError: the arguments cannot be stored as JSON, or were not given by name.
            ConfigError: the workers have declared that the task is unique or encrypts one of these arguments, which only
                its code can do. It fails in the database, and the transaction of ``on()`` with it.
            QueueFull: its queue has no room for it.
        """
        job = self.call(*args, **arguments)
        return handle(job, self._app.send_jobs([job], self._connection)[0], self._app)

    async def aenqueue(self, /, *args: Any, **arguments: Any) -> Handle[Any]:
        """The same, awaited, for async connections."""
        job = self.call(*args, **arguments)
        return handle(job, (await self._app.asend_jobs([job], self._connection))[0], self._app)


class TaskDecorator:
    """The type of ``@app.task(...)`` with options."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Awaitable[R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any: ...


def handle(job: NewJob, added: Added, sender: Sender) -> Handle[Any]:
    """The handle of a job that was sent."""
    return Handle(added.id, job.task, added.placed, sender)


def handles(jobs: Sequence[NewJob], added: Sequence[Added], sender: Sender) -> list[Handle[Any]]:
    """The handles of jobs that were sent."""
    return [
        Handle(each.id, job.task, each.placed, sender)
        for job, each in zip(jobs, added, strict=True)
    ]


def given(connection: object) -> object:
    """Return the caller's connection; None would silently mean a transaction of the job's own."""
    if connection is None:
        raise ConnectionUnusable(
            "on(None): there is no connection to enqueue on; leave .on() out for a transaction of"
            " the job's own"
        )
    return connection
