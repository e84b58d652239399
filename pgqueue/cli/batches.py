"""Long work in batches, with a bar on the terminal; an interrupt ends it between two of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import Progress

from pgqueue.cli.output import jobs_of
from pgqueue.cli.terminal import say
from pgqueue.client import batches


class Interrupted(click.ClickException):
    """It was stopped on the way. ``done``: what had been done."""

    exit_code = 130

    def __init__(self, verb: str, done: Sequence[int], total: int) -> None:
        super().__init__(
            f"interrupted: {verb} {len(done):,} of {jobs_of(total)}; the others are as they were. To go"
            " on, run the same command again"
        )
        self.done = done

    def show(self, file: IO[Any] | None = None) -> None:
        say(f"pgqueue: {self.message}", file=file, err=True)


def in_batches(
    verb: str, ids: Sequence[int], act: Callable[[Sequence[int]], Sequence[int]]
) -> list[int]:
    """Act on all ids, a batch at a time; returns those on which it did.

    Args:
        verb: what has been done to a job then, such as "retried".

    Raises:
        Interrupted: Ctrl-C was pressed, once; a second time does not wait for the batch at hand.
    """
    done: list[int] = []
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    try:
        with bar, _interrupt() as interrupted:
            shown = bar.add_task(verb, total=max(len(ids), 1))
            for batch in batches(ids):
                if interrupted.is_set():
                    raise Interrupted(verb, done, len(ids))
                done += act(batch)
                bar.update(shown, advance=len(batch))
    except KeyboardInterrupt:
        raise Interrupted(verb, done, len(ids)) from None
    except Exception as error:
        if done and not isinstance(error, Interrupted):
            say(f"{verb} {len(done):,} of {jobs_of(len(ids))} before this error:", err=True)
        raise
    return done


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """Set by the first SIGINT; the second is an interrupt as ever."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        event.set()
        with suppress(OSError):
            os.write(2, b"ending after this batch; again: at once\n")

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
