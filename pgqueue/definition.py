"""A task as its worker sees it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pgqueue.annotations import CANNOT_RESOLVE, hint_of, hints_of, parameters_of
from pgqueue.checks import flag, several, shown
from pgqueue.codec import GIVEN, Signature, Unresolved, signature_of
from pgqueue.context import Context
from pgqueue.durations import Duration, check_timeout
from pgqueue.errors import ArgumentsError, TaskError
from pgqueue.job import ClaimedJob, check_name
from pgqueue.limits import Ordered, gate_from
from pgqueue.options import Options, options_of
from pgqueue.outcome import (
    LOG_LIMIT,
    MESSAGE_LIMIT,
    NOT_COMMITTED,
    SUCCEEDED,
    Outcome,
    clean,
    decide,
)
from pgqueue.privacy import Privacy
from pgqueue.redact import Redaction
from pgqueue.results import result_text
from pgqueue.retry import BackoffLike, RetryOn, errors_of
from pgqueue.returned import generator_kind
from pgqueue.schedule import When
from pgqueue.text import nearest
from pgqueue.unique import UniqueLike

RunIn = Literal["async", "thread", "process"]


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
        retry_on: RetryOn = None,
        aliases: Sequence[str] = (),
        redact: Sequence[str] = (),
        result: bool = False,
    ) -> None:
        if name is not None:
            check_name(name)
        self.function = function
        named = name or str(getattr(function, "__qualname__", function))
        self.run = run_in(function, run, named)
        self.qualname = getattr(function, "__qualname__", None) or _below(function, name)
        self.module = imported_as(function)
        self.name = check_name(name or f"{module_of(function)}.{self.qualname}")
        self.aliases = tuple(map(check_name, several(aliases, "aliases", "names")))
        self.options = options
        self.timeout = None if timeout is None else check_timeout(timeout)
        self.retry_on = errors_of(retry_on)
        self.result = flag(result, "result")
        self.redact = several(redact, "redact", "names")
        Redaction().plus(self.redact)

    def check(self) -> None:
        """Is everything there that a worker needs to know of it?

        Raises:
            TaskError: an annotation does not resolve, or its type cannot be stored; or it is limited by an
                argument that it has not.
        """
        signature, name = self.signature, self.name
        self.given  # noqa: B018  resolves them
        if self.options.gate is not None:
            self.options.gate.check(signature, name)

    def declared(self) -> dict[str, Any]:
        """What workers write of it for those that do not have its code, by column of ``tasks``.

        Raises:
            TaskError: as ``check`` does.
        """
        gate, options = self.options.gate, self.options.declared()
        if self.signature.encrypted:
            options["encrypted"] = sorted(self.signature.encrypted)
        limits = {} if gate is None else gate.declared(self.signature)
        return limits | ({"options": options} if options else {})

    def check_early(self) -> None:
        """The same as far as it is known when it is declared: an annotation may name what is defined below."""
        with suppress(Unresolved):
            self.check()

    @cached_property
    def takes_context(self) -> bool:
        """Is the first parameter the context?"""
        return first_is_context(self.function, skip=0)

    @cached_property
    def signature(self) -> Signature:
        return signature_of(self.function, skip=int(self.takes_context))

    @cached_property
    def given(self) -> dict[str, type]:
        """The parameters that resources fill, with their types."""
        named = [n for n, p in parameters_of(self.function).items() if p.default is GIVEN]
        try:
            return hints_of(self.function, named)
        except CANNOT_RESOLVE as error:
            raise TaskError(
                f"{self.name}: the type of a resource does not resolve: {error}"
            ) from None

    @property
    def required(self) -> list[str]:
        """The names of arguments without a default."""
        parameters = list(parameters_of(self.function).values())
        own = parameters[int(self.takes_context) :]
        return [p.name for p in own if p.default is p.empty]

    def invoke(self, context: Context | None, arguments: dict[str, Any]) -> Any:
        """Call the handler; an async one returns its coroutine."""
        if self.given and context is not None:
            arguments = arguments | {n: context.resource(kind) for n, kind in self.given.items()}
        if self._nameless:
            first = [context] if self.takes_context else []
            first += [arguments[name] for name in self._nameless]
            rest = {name: arguments[name] for name in arguments if name not in self._nameless}
            return self.function(*first, **rest)
        if self.takes_context:
            return self.function(context, **arguments)
        return self.function(**arguments)

    @cached_property
    def _nameless(self) -> tuple[str, ...]:
        """The parameters before a ``/``, which cannot be given by name; without the context."""
        own = list(parameters_of(self.function).values())[int(self.takes_context) :]
        return tuple(p.name for p in own if p.kind is p.POSITIONAL_ONLY)

    @cached_property
    def returns(self) -> Any:
        """The type of what it returns; Any if it does not say or it does not resolve."""
        return hint_of(self.function, "return", Any)

    def judge(
        self,
        value: Any,
        raised: BaseException | None,
        *,
        job: ClaimedJob,
        arguments: dict[str, Any],
        context: Context,
        privacy: Privacy,
    ) -> Outcome:
        """The outcome of a run that returned ``value``, or raised."""
        # A result that others of a workflow may take; None is what they take when there is none.
        keeps = self.result or (value is not None and job.workflow_id is not None)
        if raised is None and not (keeps or context.stepped or context.logged is not None):
            outcome = SUCCEEDED
        else:
            conceal = self.concealer(privacy, job, arguments)
            if raised is None:
                outcome = self._returned(value, context, conceal)
            else:
                outcome = decide(
                    raised,
                    attempt=1 if context.progressed else job.attempt,
                    retry_on=self.retry_on,
                    backoff=self.backoff_of(arguments),
                    conceal=conceal,
                )
                if context.logged is not None:
                    outcome = replace(outcome, log=self.log_of(context, conceal))
        if context.completed or context.doubtful:
            return completed(outcome, context)
        return outcome

    def _returned(self, value: Any, context: Context, conceal: Callable[[str], str]) -> Outcome:
        result = error = None
        try:
            if self.result or (context.workflow_id is not None and value is not None):
                result = result_text(value, self.returns)
            elif context.stepped:
                # One with steps has a row that is kept until it is pruned, and its steps with it.
                result = "null"
        except ArgumentsError as refused:
            error = f"ResultNotStored: {clean(conceal(str(refused)), MESSAGE_LIMIT)}"
        return Outcome("succeeded", error=error, result=result, log=self.log_of(context, conceal))

    @staticmethod
    def log_of(context: Context, conceal: Callable[[str], str]) -> str | None:
        """What was logged with ``ctx.log``, without secrets."""
        text = context.logged
        return None if text is None else clean(conceal(text), LOG_LIMIT)

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


def completed(outcome: Outcome, context: Context) -> Outcome:
    """The outcome of a run that completed its job in a transaction, whatever it did after that."""
    failed = outcome.kind != "succeeded"
    otherwise = None
    if not context.committed:
        otherwise = NOT_COMMITTED if context.completed and not failed else outcome
    if failed:
        outcome = replace(outcome, delay=None, traceback=None)
    return replace(outcome, kind="completed", otherwise=otherwise)


def _below(function: Callable[..., Any], name: str | None) -> str:
    """The name of what has none of its own: a ``functools.partial``, or an object that can be called."""
    if name is None:
        raise TaskError(f"{function!r} has no name of its own: give the task one with name=")
    below = getattr(function, "func", type(function))
    return str(getattr(below, "__qualname__", name))


class TaskOptions(When, total=False):
    """The options of ``App.task``."""

    name: str | None
    queue: str
    priority: int | None
    max_retries: int | None
    backoff: BackoffLike | None
    timeout: Duration | None
    run: RunIn | None
    retry_on: RetryOn
    aliases: Sequence[str]
    redact: Sequence[str]
    result: bool
    unique: UniqueLike | None
    expires: Duration | None
    limit: int | None
    rate: str | float | None
    burst: int | None
    per: str | None
    order_by: str | None
    ordered: Ordered
    fair_by: str | None
    weights: Mapping[str, int] | None


def function_definition(
    given: TaskOptions,
) -> tuple[Callable[[Callable[..., Any]], Definition], When]:
    """What makes a function with these options a definition, and the options of its schedule.

    Raises:
        ConfigError: an option is out of range.
        TypeError: there is no such option.
    """
    rest: dict[str, Any] = dict(given)
    when: Any = {name: rest.pop(name) for name in When.__annotations__ if name in rest}
    limits = inspect.signature(gate_from).parameters
    gate = gate_from(**{name: rest.pop(name) for name in limits if name in rest})
    names = inspect.signature(options_of).parameters.keys() - {"gate"}
    options = options_of(gate=gate, **{name: rest.pop(name) for name in names if name in rest})
    timeout = rest.pop("timeout", None)
    longest = None if timeout is None else check_timeout(timeout)
    unknown = rest.keys() - {"name", "run", "retry_on", "aliases", "redact", "result"}
    if unknown:
        known = TaskOptions.__annotations__
        raise TypeError(f"a task has no option {min(unknown)!r}{nearest(min(unknown), known)}")

    def define(function: Callable[..., Any]) -> Definition:
        return Definition(function, options=options, timeout=longest, **rest)

    return define, when


def module_of(function: Callable[..., Any] | type) -> str:
    """The module's name as tasks have it, also for a script run as ``__main__``; a package's ``__main__`` is the package."""
    return imported_as(function).removesuffix(".__main__")


def imported_as(function: Callable[..., Any] | type) -> str:
    """The name by which another process imports the module."""
    module = getattr(function, "func", function).__module__
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules[module]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    return Path(getattr(main, "__file__", None) or "__main__").stem


def run_in(function: Callable[..., Any], run: RunIn | None, name: str) -> RunIn:
    """Where a handler runs: async on the loop, sync in a thread, or a process if asked.

    Raises:
        TaskError: it cannot run there, or is a generator function, whose call runs nothing.
    """
    if (kind := generator_kind(function)) is not None:
        raise TaskError(
            f"{name} is {kind} function: a call of it runs nothing. A task must not yield: let it loop"
            " over the generator itself"
        )
    is_async = inspect.iscoroutinefunction(function)
    if run is None:
        return "async" if is_async else "thread"
    if not isinstance(run, str) or run not in ("async", "thread", "process"):
        raise TaskError(f'{name}: run must be "async", "thread" or "process", got {shown(run)}')
    if is_async != (run == "async"):
        kind = "async" if is_async else "sync"
        raise TaskError(f'{name}: run="{run}" does not go with a function that is {kind}')
    return run


def first_is_context(function: Callable[..., Any], *, skip: int) -> bool:
    parameters = list(parameters_of(function).values())[skip:]
    if not parameters:
        return False
    written = getattr(parameters[0].annotation, "__forward_arg__", parameters[0].annotation)
    if not isinstance(written, str):
        return written is Context
    # Imported for type checkers only, it does not resolve.
    unresolved = Context if written.rpartition(".")[2] == "Context" else None
    return hint_of(function, parameters[0].name, unresolved) is Context
