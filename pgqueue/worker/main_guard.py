"""Process tasks start Python anew, which imports the main module again: a worker that runs there would start workers."""

from __future__ import annotations

import ast
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pgqueue.errors import ConfigError

LINES = 'if __name__ == "__main__":\n    Worker(app).run()'


def check_main_guard(process_tasks: Sequence[str]) -> None:
    """Refuse a worker that the processes of its process tasks would run again as they start.

    Args:
        process_tasks: the names of those that the app has.

    Raises:
        ConfigError: it is run by the main module as that is imported, with no condition around it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            _text("this process was started for a process task, and began to run a worker")
        )
    if process_tasks and (line := _unguarded()) is not None:
        raise ConfigError(
            _text(f"line {line} of the main module runs a worker, and {process_tasks[0]} is one")
        )


def _text(what: str) -> str:
    return (
        f'{what}: each process that is started for tasks with run="process" imports the main module again.'
        f" Run the worker only where that is the program itself:\n\n{LINES}"
    )


def _unguarded() -> int | None:
    """The line of the main module that is being run, if it is run whenever that module is imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name.endswith(
        ".__main__"
    ):  # of a package: it is not imported again
        return None
    file = getattr(main, "__file__", None)
    frame = _frame_of(vars(main)) if main is not None else None
    # What `python -m package` runs is not imported again: multiprocessing leaves out modules of this name.
    spec = getattr(main, "__spec__", None)
    if file is None or frame is None or (spec is not None and spec.name.endswith("__main__")):
        return None
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):  # no source, so nothing is known
        return None
    line = frame.f_lineno
    for statement in tree.body:
        if statement.lineno <= line <= (statement.end_lineno or line):
            return None if isinstance(statement, ast.If) else line
    return None


def _frame_of(namespace: dict[str, object]) -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            return frame
        frame = frame.f_back
    return None
