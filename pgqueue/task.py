"""Tasks: named functions whose calls can be enqueued."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    get_type_hints,
    overload,
)

from pgqueue.codec import Signature, signature_of
from pgqueue.context import Context
from pgqueue.errors import ConfigError, ConnectionUnusable, TaskError
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.keys import Keys
from pgqueue.options import Options, Verbs
from pgqueue.privacy import Privacy
from pgqueue.redact import Redaction

P = ParamSpec("P")
R = TypeVar("R")
RunIn = Literal["async", "thread", "process"]


@dataclass(frozen=True, slots=True)
class Handle(Generic[R]):
    """A job that was enqueued."""

    id: int
    task: str


class Sender(Protocol):
    """What a task needs of its app."""

    @property
    def keys(self) -> Keys | None: ...

    def send(self, jobs: Sequence[NewJob], on: object) -> list[int]: ...

    async def asend(self, jobs: Sequence[NewJob], on: object) -> list[int]: ...


class Definition:
    """A task as its worker sees it: how to read arguments, call the handler, and judge failures."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        options: Options,
        timeout: float | None = None,
        run: RunIn | None = None,
        retry_on: tuple[type[BaseException], ...] | None = None,
        aliases: Sequence[str] = (),
        redact: Sequence[str] = (),
    ) -> None:
        self.function = function
        self.module, self.qualname = module_of(function), function.__qualname__
        self.name = check_name(name or f"{self.module}.{self.qualname}")
        self.aliases = tuple(check_name(alias) for alias in aliases)
        self.options = options
        self.timeout = timeout
        self.retry_on = retry_on
        self.redact = tuple(redact)
        Redaction().plus(redact)
        self.run = run_in(function, run, self.name)

    @cached_property
    def takes_context(self) -> bool:
        """Is the first parameter the context?"""
        return first_is_context(self.function, skip=0)

    @cached_property
    def signature(self) -> Signature:
        return signature_of(self.function, skip=int(self.takes_context))

    @property
    def required(self) -> list[str]:
        """The names of arguments without a default."""
        parameters = list(inspect.signature(self.function).parameters.values())
        own = parameters[int(self.takes_context) :]
        return [p.name for p in own if p.default is p.empty]

    def invoke(self, context: Context | None, arguments: dict[str, Any]) -> Any:
        """Call the handler; an async one returns its coroutine."""
        if self.takes_context:
            return self.function(context, **arguments)
        return self.function(**arguments)

    def backoff_of(self, arguments: dict[str, Any]) -> Callable[[int], float] | None:
        """The handler's own backoff, by attempt; None to let SQL compute it."""
        return None

    def concealer(
        self, privacy: Privacy, job: ClaimedJob, arguments: dict[str, Any]
    ) -> Callable[[str], str]:
        """Takes the job's secret arguments out of error text."""
        return privacy.concealer(
            job.task,
            job.args,
            redact=self.redact,
            encrypted=self.signature.encrypted,
            arguments=arguments,
        )


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

    def call(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job for ``enqueue_many``; nothing is sent yet.

        Raises:
            ArgumentsError: the arguments do not fit the task or cannot be stored.
            ConfigError: some are to be encrypted and there are no keys.
        """
        text = self.definition.signature.encode(self.definition.name, args, kwargs, self._app.keys)
        return self.options.new_job(self.definition.name, text)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Insert the job; it runs once the transaction has committed.

        Raises:
            ArgumentsError: the arguments do not fit the task or cannot be stored.
            ConnectionUnusable: the connection given to ``on()`` is closed, async or unknown.
            SchemaError: the database has no pgqueue schema.
        """
        job = self.call(*args, **kwargs)
        return Handle(self._app.send([job], self._connection)[0], job.task)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same, awaited, for async connections."""
        job = self.call(*args, **kwargs)
        return Handle((await self._app.asend([job], self._connection))[0], job.task)


class Task(Request[P, R]):
    """A named function. Calling it runs it here and now; ``enqueue`` leaves it to a worker."""

    def __init__(self, definition: Definition, app: Sender) -> None:
        super().__init__(definition, app, definition.options)
        self.__name__ = definition.function.__name__
        self.__qualname__ = definition.qualname
        self.__module__ = definition.function.__module__
        self.__doc__ = definition.function.__doc__

    @property
    def name(self) -> str:
        """The name stored with each job."""
        return self.definition.name

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        return self.definition.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.definition.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


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


def given(connection: object) -> object:
    """Return the caller's connection; None would silently mean a transaction of the job's own."""
    if connection is None:
        raise ConnectionUnusable(
            "on(None): there is no connection to enqueue on; leave .on() out for a transaction of"
            " the job's own"
        )
    return connection


def check_name(name: str) -> str:
    """Return a task name, or raise ConfigError if it is empty or over 200 characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigError(f"task name {name!r} must be 1 to 200 printable characters")
    return name


def module_of(function: Callable[..., Any] | type) -> str:
    """The module's import name, also for a script run as ``__main__``."""
    module = function.__module__
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules[module]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    return Path(getattr(main, "__file__", None) or "__main__").stem


def run_in(function: Callable[..., Any], run: RunIn | None, name: str) -> RunIn:
    """Where a handler runs: async on the loop, sync in a thread, or a process if asked."""
    is_async = inspect.iscoroutinefunction(function)
    if run is None:
        return "async" if is_async else "thread"
    if run not in ("async", "thread", "process"):
        raise TaskError(f'{name}: run must be "async", "thread" or "process", got {run!r}')
    if is_async != (run == "async"):
        kind = "async" if is_async else "sync"
        raise TaskError(f'{name}: run="{run}" does not go with a function that is {kind}')
    return run


def first_is_context(function: Callable[..., Any], *, skip: int) -> bool:
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    if not parameters:
        return False
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        try:
            annotation = get_type_hints(function).get(parameters[0].name)
        except NameError:
            annotation = Context if annotation.rpartition(".")[2] == "Context" else None
    return annotation is Context
