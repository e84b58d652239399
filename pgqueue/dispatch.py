"""Job classes: fields are the arguments, ``handle`` does the work."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, dataclass_transform

from pgqueue.codec import Signature, signature_of
from pgqueue.context import Context
from pgqueue.definition import Definition, RunIn, first_is_context, module_of, run_in
from pgqueue.durations import Duration, seconds
from pgqueue.errors import TaskError
from pgqueue.job import NewJob
from pgqueue.limits import gate_from
from pgqueue.options import Options, Verbs, options_of
from pgqueue.recurring import Recurring, Scheduling
from pgqueue.retry import BackoffLike
from pgqueue.schedule import CatchUp, Overlap
from pgqueue.task import Handle, Sender, given, handle
from pgqueue.unique import UniqueLike


@dataclass_transform()
class Job:
    """Base of job classes. Annotated fields are the arguments; plain class attributes are options.

    ``handle(self)`` or ``handle(self, ctx: Context)`` runs the job, sync or async. ``backoff`` may
    be a duration, a ``Backoff``, or a method ``backoff(self, attempt) -> seconds``.
    """

    name: ClassVar[str | None] = None
    queue: ClassVar[str] = "default"
    priority: ClassVar[int | None] = None
    max_retries: ClassVar[int | None] = None
    if not TYPE_CHECKING:  # a subclass sets a value or defines a method, and both are right
        backoff = None
    timeout: ClassVar[Duration | None] = None
    run: ClassVar[RunIn | None] = None
    retry_on: ClassVar[tuple[type[BaseException], ...] | None] = None
    aliases: ClassVar[Sequence[str]] = ()
    redact: ClassVar[Sequence[str]] = ()
    unique: ClassVar[UniqueLike | None] = None
    expires: ClassVar[Duration | None] = None
    result: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, Any]] = {}
    definition: ClassVar[ClassDefinition]
    classes: ClassVar[dict[str, type[Job]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = inspect.get_annotations(cls)
        clash = {name for name in RESERVED & set(own) if "ClassVar" not in str(own[name])}
        if clash:
            raise TaskError(
                f"{cls.__qualname__}: {', '.join(sorted(clash))} has a meaning in every job, so it"
                " cannot be a field: rename the field, or drop the annotation to set the option"
            )
        dataclasses.dataclass(cls, repr=False)
        if not hasattr(cls, "handle"):
            return  # a base class of the application's own
        cls.definition = ClassDefinition(cls)
        for name in (cls.definition.name, *cls.definition.aliases):
            known = Job.classes.get(name)
            # The same class again is a reload; another one would take over its jobs.
            if known is not None and (known.__module__, known.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise TaskError(
                    f"two job classes are named {name}: {known.__module__}.{known.__qualname__} and"
                    f" {cls.__module__}.{cls.__qualname__}; give one of them another name"
                )
            Job.classes[name] = cls

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
            name=cls.name or f"{module_of(cls)}.{cls.__qualname__}",
            options=options,
            timeout=None if cls.timeout is None else seconds(cls.timeout, name="timeout"),
            run=run_in(handle, cls.run, cls.__qualname__),
            retry_on=cls.retry_on,
            aliases=cls.aliases,
            redact=cls.redact,
            result=cls.result,
        )
        self.cls = cls
        self.module, self.qualname = module_of(cls), cls.__qualname__
        self._takes_context = first_is_context(handle, skip=1)
        self._fields = tuple(f.name for f in dataclasses.fields(cls) if f.init)  # type: ignore[arg-type]
        self._class_signature: Signature | None = None

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
        return job.handle(context) if self._takes_context else job.handle()

    def backoff_of(self, arguments: dict[str, Any]) -> Callable[[int], float] | None:
        if not callable(getattr(self.cls, "backoff", None)):
            return None
        job: Any = self.cls(**arguments)
        return lambda attempt: seconds(job.backoff(attempt), name="backoff")

    def arguments_of(self, job: Job) -> dict[str, Any]:
        return {name: getattr(job, name) for name in self._fields}


class Host(Sender, Scheduling, Protocol):
    """What it needs of its app."""


class Dispatch(Verbs["Dispatch"]):
    """A job instance on its way: verbs, then ``enqueue()``, ``await ...aenqueue()`` or ``await``."""

    def __init__(
        self, job: Job, app: Host, options: Options | None = None, connection: object = None
    ) -> None:
        definition = getattr(type(job), "definition", None)
        if not isinstance(definition, ClassDefinition):
            raise TaskError(
                f"dispatch() takes an instance of a Job class with handle(), got {type(job).__name__}"
            )
        self.definition = definition
        self.options = options or definition.options
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
            name=name or self.definition.name,
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
        return options.new_job(name, text, self.definition.signature)

    def enqueue(self) -> Handle[Any]:
        """Insert the job; raises as ``Task.enqueue`` does."""
        job = self.call()
        return handle(job, self._app.send([job], self._connection)[0], self._app)

    async def aenqueue(self) -> Handle[Any]:
        """The same, awaited."""
        job = self.call()
        return handle(job, (await self._app.asend([job], self._connection))[0], self._app)

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
