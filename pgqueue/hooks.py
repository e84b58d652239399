"""What an app hangs around enqueueing and running, hears of ends, and opens once for its handlers."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pgqueue.annotations import hint_of
from pgqueue.checks import shown
from pgqueue.context import Context
from pgqueue.definition import Definition
from pgqueue.errors import ConfigError
from pgqueue.job import NewJob
from pgqueue.returned import generator_kind

F = TypeVar("F", bound=Callable[..., Any])
AnyManager = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
AroundRun = Callable[[Context], AnyManager]
AroundEnqueue = Callable[[Sequence[NewJob]], AbstractContextManager[Any]]
Kind = Literal["success", "retry", "dead"]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that ended and was recorded. ``wait``: seconds until the retry; None if there is none."""

    job_id: int
    task: str
    queue: str
    attempt: int
    error_type: str | None = None
    error: str | None = None
    wait: float | None = None


class Hooks:
    """The part of an app that lets others in."""

    def __init__(self) -> None:
        super().__init__()
        self.around_runs: list[AroundRun] = []
        self.around_enqueues: list[AroundEnqueue] = []
        self.hooks: dict[Kind, list[tuple[frozenset[str], Callable[[Ended], Any]]]] = {}
        self.resources: dict[type, Callable[[], AnyManager]] = {}

    def around_run(self, manager: F) -> F:
        """Enter this around every run: ``@app.around_run`` on a context manager that takes the context.

        Sync or async; an async one may go around sync handlers too. What the handler raises goes
        through it; a manager that swallows it makes the run a success.

        Raises:
            ConfigError: it cannot be called, or is a generator function without ``@contextmanager``.
        """
        _check_manager(manager)
        self.around_runs.append(manager)
        return manager

    def around_enqueue(self, manager: F) -> F:
        """Enter this around every insert of jobs, sync and async: a context manager that takes the jobs.

        Raises:
            ConfigError: it cannot be called, or is a generator function without ``@contextmanager``.
        """
        _check_manager(manager)
        self.around_enqueues.append(manager)
        return manager

    def on_success(self, *tasks: Any) -> Any:
        """Call a function with ``Ended`` when a job has succeeded: ``@app.on_success``, or of given tasks."""
        return self._on("success", tasks)

    def on_retry(self, *tasks: Any) -> Any:
        """The same when an attempt has failed and will be retried."""
        return self._on("retry", tasks)

    def on_dead(self, *tasks: Any) -> Any:
        """The same when a job is dead: out of retries, out of crashes, or by ``Dead``."""
        return self._on("dead", tasks)

    def _on(self, kind: Kind, tasks: tuple[Any, ...]) -> Any:
        def register(function: F) -> F:
            if (yields := generator_kind(function)) is not None:
                raise ConfigError(
                    f"the hook {function!r} is {yields} function: a call of it runs nothing"
                )
            self.hooks.setdefault(kind, []).append((names, function))
            return function

        definitions = [getattr(task, "definition", None) for task in tasks]
        if len(tasks) == 1 and definitions == [None] and callable(tasks[0]):
            names: frozenset[str] = frozenset()
            return register(tasks[0])
        if not all(isinstance(each, Definition) for each in definitions):
            raise ConfigError(f"hooks take tasks or job classes, got {tasks!r}")
        names = frozenset(each.name for each in definitions if each is not None)
        return register

    def resource(self, factory: F) -> F:
        """Open something once per worker, for its handlers: a generator function that yields it once.

        Its return annotation, ``Iterator[Client]`` or ``AsyncIterator[Client]``, says the type by which
        handlers get it: by a parameter ``client: Client = given()``, or ``ctx.resource(Client)``.

        Raises:
            ConfigError: it is no such function, or the type is taken.
        """
        kind = _yielded(factory)
        if kind in self.resources:
            raise ConfigError(f"two resources of type {kind.__name__}")
        is_async = inspect.isasyncgenfunction(factory)
        manager: Any = asynccontextmanager(factory) if is_async else contextmanager(factory)
        self.resources[kind] = manager
        return factory

    @contextmanager
    def _enqueueing(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        with ExitStack() as stack:
            for manager in self.around_enqueues:
                stack.enter_context(manager(jobs))
            yield


def _check_manager(manager: Callable[..., Any]) -> None:
    if not callable(manager):
        raise ConfigError(
            f"it must be a function that returns a context manager, got {shown(manager)}"
        )
    if inspect.isgeneratorfunction(manager) or inspect.isasyncgenfunction(manager):
        decorator = (
            "@contextmanager" if inspect.isgeneratorfunction(manager) else "@asynccontextmanager"
        )
        raise ConfigError(f"{manager!r} is no context manager yet: put {decorator} on it")


def _yielded(factory: Callable[..., Any]) -> type:
    if inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
        returned = hint_of(factory, "return", None)
        if typing.get_origin(returned) in (Iterator, AsyncIterator):
            kind: type = typing.get_args(returned)[0]
            return kind
    raise ConfigError(
        f"{factory!r} must be a generator function annotated -> Iterator[T] or AsyncIterator[T]"
    )
