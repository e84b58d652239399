"""Job classes: fields are the arguments, ``handle`` does the work."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import warnings
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, dataclass_transform
from weakref import WeakSet

from pgqueue.annotations import parameters_of
from pgqueue.codec import Signature, signature_of
from pgqueue.context import Context
from pgqueue.definition import (
    Definition,
    RunIn,
    first_is_context,
    imported_as,
    module_of,
    run_in,
)
from pgqueue.durations import Duration, check_timeout, seconds
from pgqueue.errors import ArgumentsError, TaskError
from pgqueue.job import NewJob
from pgqueue.keys import Keys
from pgqueue.limits import gate_from
from pgqueue.models import same
from pgqueue.options import Options, Verbs, options_of
from pgqueue.recurring import Recurring, Scheduling
from pgqueue.reference import may_refer
from pgqueue.retry import BackoffLike, RetryOn
from pgqueue.schedule import CatchUp, Overlap
from pgqueue.task import Handle, Sender, given, handle
from pgqueue.unique import UniqueLike

_CLASSES: WeakSet[type[Job]] = WeakSet()  # those with a handler, of all apps
_LOCK = Lock()
_SERIALS = count()


@dataclass_transform()
class Job:
    """Base of job classes. Annotated fields are the arguments; plain class attributes are options.

    ``handle(self)`` or ``handle(self, ctx: Context)`` runs the job, sync or async. ``backoff`` may
    be a duration, a ``Backoff``, or a method ``backoff(self, attempt) -> seconds``.

    A class belongs to the app whose ``@app.job`` decorates it. One that is not decorated belongs to the
    first app that dispatches or runs it, which is enough where a process has one app.
    """

    name: ClassVar[str | None] = None
    queue: ClassVar[str] = "default"
    priority: ClassVar[int | None] = None
    max_retries: ClassVar[int | None] = None
    if not TYPE_CHECKING:  # a subclass sets a value or defines a method, and both are right
        backoff = None
    timeout: ClassVar[Duration | None] = None
    run: ClassVar[RunIn | None] = None
    retry_on: ClassVar[RetryOn] = None
    aliases: ClassVar[Sequence[str]] = ()
    redact: ClassVar[Sequence[str]] = ()
    unique: ClassVar[UniqueLike | None] = None
    expires: ClassVar[Duration | None] = None
    result: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, Any]] = {}
    definition: ClassVar[ClassDefinition]
    _builds: ClassVar[bool] = False  # it has an __init__ or a __post_init__ of its own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = inspect.get_annotations(cls)
        clash = {name for name in RESERVED & set(own) if "ClassVar" not in str(own[name])}
        if clash:
            raise TaskError(
                f"{cls.__qualname__}: {', '.join(sorted(clash))} has a meaning in every job, so it"
                " cannot be a field: rename the field, or drop the annotation to set the option"
            )
        # Seen before ``dataclass`` adds an __init__ that only stores the fields.
        cls._builds |= "__init__" in vars(cls) or "__post_init__" in vars(cls)
        dataclasses.dataclass(cls, repr=False)
        if not hasattr(cls, "handle"):
            return  # a base class of the application's own
        cls.definition = ClassDefinition(cls)
        with _LOCK:
            _CLASSES.add(cls)

    def __repr__(self) -> str:
        names = (f"{f.name}=..." for f in dataclasses.fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(names)})"


RESERVED = {name for name in vars(Job) if not name.startswith("_")} | set(Job.__annotations__)
RESERVED |= {"handle"}


class ClassDefinition(Definition):
    """A job class as its worker sees it."""

    def __init__(self, cls: type[Job]) -> None:
        own: Any = getattr(cls, "backoff", None)
        backoff: BackoffLike | None = None if callable(own) else own
        options = options_of(
            queue=cls.queue,
            priority=cls.priority,
            max_retries=cls.max_retries,
            backoff=backoff,
            unique=cls.unique,
            expires=cls.expires,
            gate=gate_from(**cls.limits),
        )
        handle: Callable[..., Any] = cls.handle  # type: ignore[attr-defined]
        super().__init__(
            handle,
            name=cls.name if cls.name is not None else f"{module_of(cls)}.{cls.__qualname__}",
            options=options,
            timeout=None if cls.timeout is None else check_timeout(cls.timeout),
            run=run_in(handle, cls.run, cls.__qualname__),
            retry_on=cls.retry_on,
            aliases=cls.aliases,
            redact=cls.redact,
            result=cls.result,
        )
        self.cls = cls
        self.serial = next(_SERIALS)
        self.owners: WeakSet[JobClasses] = WeakSet()
        self.decorated = False
        self.module, self.qualname = imported_as(cls), cls.__qualname__
        self._takes_context = first_is_context(handle, skip=1)
        self._fields = tuple(f.name for f in dataclasses.fields(cls) if f.init)  # type: ignore[arg-type]
        self._class_signature: Signature | None = None
        self._check_handle()
        self.check_early()

    def _check_handle(self) -> None:
        static = isinstance(inspect.getattr_static(self.cls, "handle"), staticmethod | classmethod)
        skipped = int(self._takes_context) + (0 if static else 1)
        for each in list(parameters_of(self.function).values())[skipped:]:
            if each.default is each.empty and each.kind not in (
                each.VAR_POSITIONAL,
                each.VAR_KEYWORD,
            ):
                raise TaskError(
                    f"{self.qualname}.handle() takes {each.name}: the arguments of a job class are its fields;"
                    f" handle() takes a Context, if anything"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and aliases."""
        return (self.name, *self.aliases)

    @property
    def takes_context(self) -> bool:
        return self._takes_context

    @property
    def signature(self) -> Signature:
        if self._class_signature is None:
            self._class_signature = signature_of(self.cls)
        return self._class_signature

    def invoke(self, context: Context | None, arguments: dict[str, Any]) -> Any:
        job: Any = self.cls(**arguments)
        if self.given and context is not None:
            first = (context,) if self._takes_context else ()
            return job.handle(*first, **{n: context.resource(k) for n, k in self.given.items()})
        return job.handle(context) if self._takes_context else job.handle()

    def backoff_of(self, arguments: dict[str, Any]) -> Callable[[int], float] | None:
        if not callable(getattr(self.cls, "backoff", None)):
            return None
        job: Any = self.cls(**arguments)
        return lambda attempt: seconds(job.backoff(attempt), name="backoff")

    def arguments_of(self, job: Job) -> dict[str, Any]:
        return {name: getattr(job, name) for name in self._fields}

    def check_rebuilt(self, text: str, keys: Keys | None) -> None:
        """See whether the job that a worker makes of these arguments has them as its fields.

        Raises:
            ArgumentsError: its own ``__init__`` or ``__post_init__`` makes another one of it.
        """
        if not self.cls._builds or may_refer(text):  # of results that are not known yet
            return
        arguments = self.signature.decode(text, task=self.name, keys=keys)
        try:
            back = self.cls(**arguments)
        except Exception as error:  # of the caller's own class
            raise ArgumentsError(
                f"{self.name} cannot be made again of its fields: {type(error).__name__}; a worker calls"
                " its __init__ with them"
            ) from error
        for name in self._fields:
            if not same(arguments[name], getattr(back, name, None)):
                raise ArgumentsError(
                    f"arguments of {self.name}: {name} changes when a worker makes the job again of its fields:"
                    " __init__ and __post_init__ must leave a field that is set as it is"
                )


class JobClasses:
    """The job classes of one app.

    Args:
        tasks: the names that its tasks have.
    """

    def __init__(self, tasks: Container[str]) -> None:
        self._tasks = tasks
        self._by_name: dict[str, type[Job]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def add(self, cls: type[Job], *, decorated: bool) -> None:
        """Let a class belong to this app.

        Raises:
            TaskError: it has no handler, one of its names is taken, or only another app's decorator
                took it.
        """
        definition = getattr(cls, "definition", None)
        if not isinstance(definition, ClassDefinition) or definition.cls is not cls:
            raise TaskError(
                "@app.job takes a Job class with handle(), and dispatch() an instance of one, got"
                f" {getattr(cls, '__qualname__', cls)}"
            )
        with _LOCK:
            if self not in definition.owners:
                self._add(definition, decorated)
            definition.decorated = definition.decorated or decorated

    def _add(self, definition: ClassDefinition, decorated: bool) -> None:
        if definition.decorated and not decorated:
            raise TaskError(
                f"{definition.qualname} is a job class of another app: decorate it with this app's"
                " @app.job as well"
            )
        for name in definition.names:
            if name in self._tasks:
                raise TaskError(f"two tasks are named {name}: give one of them another name")
            if (known := self._by_name.get(name)) is not None:
                _check_same([known, definition.cls], name)
        self._by_name |= dict.fromkeys(definition.names, definition.cls)
        definition.owners.add(self)

    def get(self, name: str) -> ClassDefinition | None:
        """The class of this name: one of this app, or one that belonged to none and now does to this."""
        known = self._by_name.get(name)
        if known is None:
            if not (found := _unowned(name)):
                return None
            known = found[name]
            self.add(known, decorated=False)
        return known.definition

    def all(self) -> list[ClassDefinition]:
        """All of this app, with those that belonged to none and now do to this.

        Raises:
            TaskError: one of their names is taken.
        """
        for cls in dict.fromkeys(_unowned().values()):
            self.add(cls, decorated=False)
        return list(dict.fromkeys(cls.definition for cls in self._by_name.values()))


def _unowned(only: str | None = None) -> dict[str, type[Job]]:
    """The classes that belong to no app, by name and alias; those of one name if it is given."""
    found = _candidates(only)
    if any(len(_places(each)) > 1 for each in found.values()):
        # One may be garbage, such as the class of a function that has returned.
        found = {}
        gc.collect()
        found = _candidates(only)
    for name, each in found.items():
        _check_same(each, name)
    return {name: each[-1] for name, each in found.items()}


def _candidates(only: str | None) -> dict[str, list[type[Job]]]:
    with _LOCK:
        classes = sorted(_CLASSES, key=lambda cls: cls.definition.serial)
    found: dict[str, list[type[Job]]] = {}
    for cls in classes:
        for name in () if cls.definition.owners else cls.definition.names:
            if only in (None, name):
                found.setdefault(name, []).append(cls)
    return found


def _places(classes: Sequence[type[Job]]) -> list[str]:
    """Where they are defined: the same place twice is a module imported again."""
    return sorted({f"{cls.__module__}.{cls.__qualname__}" for cls in classes})


def _check_same(classes: Sequence[type[Job]], name: str) -> None:
    """Another class of the name would take over its jobs."""
    places = _places(classes)
    if len(places) > 1:
        raise TaskError(
            f"two job classes are named {name}: {places[0]} and {places[1]}; give one of them another"
            " name, or say by @app.job whose each is"
        )


class Host(Sender, Scheduling, Protocol):
    """What it needs of its app."""


class Dispatch(Verbs["Dispatch"]):
    """A job instance on its way: verbs, then ``enqueue()``, ``await ...aenqueue()`` or ``await``."""

    def __init__(
        self, job: Job, app: Host, options: Options | None = None, connection: object = None
    ) -> None:
        self.definition = type(job).definition
        self.options = options or self.definition.options
        self._job, self._app, self._connection = job, app, connection
        self._sent = False

    def _changed(self, options: Options) -> Dispatch:
        self._sent = True  # the copy is the one to be sent
        return Dispatch(self._job, self._app, options, self._connection)

    def on(self, connection: object) -> Dispatch:
        """Enqueue on the caller's connection, in its transaction, which is left as it is."""
        self._sent = True
        return Dispatch(self._job, self._app, self.options, given(connection))

    def with_cron(
        self,
        expression: str,
        *,
        name: str | None = None,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
    ) -> Recurring:
        """Run it by a schedule: ``enqueue()`` makes the schedule, or changes the one of this name.

        Args:
            name: default the task's name; the other arguments are those of ``App.cron``.
        """
        self._sent = True
        return Recurring(
            self._app,
            self._new_job,
            self.options,
            name=self.definition.name if name is None else name,
            when={"cron": expression, "tz": tz, "catch_up": catch_up, "overlap": overlap},
            connection=self._connection,
        )

    def call(self) -> NewJob:
        """A job for ``enqueue_many``; nothing is sent yet."""
        self._sent = True
        return self._new_job(self.options)

    def _new_job(self, options: Options) -> NewJob:
        arguments = self.definition.arguments_of(self._job)
        name = self.definition.name
        text = self.definition.signature.encode(name, (), arguments, self._app.keys)
        self.definition.check_rebuilt(text, self._app.keys)
        return options.new_job(name, text, self.definition.signature)

    def enqueue(self) -> Handle[Any]:
        """Insert the job; raises as ``Task.enqueue`` does."""
        job = self.call()
        return handle(job, self._app.send_jobs([job], self._connection)[0], self._app)

    async def aenqueue(self) -> Handle[Any]:
        """The same, awaited."""
        job = self.call()
        return handle(job, (await self._app.asend_jobs([job], self._connection))[0], self._app)

    def __await__(self) -> Generator[Any, None, Handle[Any]]:
        return self.aenqueue().__await__()

    def __del__(self) -> None:
        if not getattr(self, "_sent", True):
            warnings.warn(
                f"{type(self._job).__name__} was dispatched but never sent: end with .enqueue() or"
                " await it",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
