"""Exceptions that do their best to stop the record of their failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from pgqueue import Retry, Snooze


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class FatalStrError(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)

    __repr__ = __str__


class Liar(str):
    """Text that lies about itself."""

    def __len__(self) -> int:
        return 0

    def replace(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("not replaced")

    def encode(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("not encoded")


class LiarError(Exception):
    def __str__(self) -> str:
        return Liar("\0\ud800" + "x" * 100_000)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("kept")
        self.held = lambda: None

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not pickled")


class BombError(Exception):
    """Unpickled, it would end the process that reads it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int]]:
        import os

        return os._exit, (3,)


class OddModuleError(Exception):
    __module__ = 5  # type: ignore[assignment]


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__"):
            raise SystemExit(f"no {name}")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=HostileMeta):
    pass


class ClasslessError(Exception):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


class GreedyError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class HalfRetry(Retry):
    def __init__(self) -> None:  # no reason, no time
        pass


class OddSnooze(Snooze):
    def __init__(self) -> None:
        super().__init__(1)
        self.after = float("nan")


class EndlessRetry(Retry):
    def __init__(self) -> None:
        super().__init__(after=1)
        self.after = float("inf")


def circle() -> Exception:
    """An exception that is its own cause."""
    error = ValueError("round")
    error.__cause__ = error
    return error


def group() -> BaseException:
    error: BaseException = ValueError("deep")
    for _ in range(500):
        error = BaseExceptionGroup("group", [error])
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "hostile str": HostileError,
    "str that exits": FatalStrError,
    "str that lies": LiarError,
    "nul and surrogate": lambda: ValueError("\0\ud800" * 10),
    "50 MB": lambda: ValueError("x" * 50_000_000),
    "unpicklable": UnpicklableError,
    "pickle bomb": BombError,
    "odd module": OddModuleError,
    "nameless": NamelessError,
    "classless": ClasslessError,
    "greedy": GreedyError,
    "half a retry": HalfRetry,
    "odd snooze": OddSnooze,
    "endless retry": EndlessRetry,
    "circle": circle,
    "group": group,
    "MemoryError": MemoryError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
}
