"""Jobs as they may be shown: secret arguments masked, also where an error repeats them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from pgqueue import config
from pgqueue.app import App
from pgqueue.cli.application import load_app
from pgqueue.job import TOO_LARGE, Attempt, JobRow
from pgqueue.redact import MASK

UNREADABLE = "[cannot be shown: no object, or nested too deep]"


class Viewer:
    """Masks by the names of the settings, and by those of the app and its tasks if it is known.

    A configured app is imported only where arguments are shown; if it cannot be, none is. One that was
    asked for and cannot be imported is an error.

    Args:
        shows_arguments: else they are left out, and errors are shown as the worker stored them, without
            the secrets of their task, masked again by the names of the settings, as far as the arguments
            were fetched.
        lists: there are other jobs, and a command that shows more of one.
    """

    def __init__(
        self, app: App, path: str | None, *, shows_arguments: bool, lists: bool = False
    ) -> None:
        self._database, self._path, self._shows_arguments = app, path, shows_arguments
        self._lists = lists

    @cached_property
    def _app(self) -> App | None:
        if self._path is not None:
            return load_app(self._path)
        configured = config.load().app if self._shows_arguments else None
        if configured is None:
            return self._database
        try:
            return load_app(configured)
        except Exception:
            return None

    def job(self, job: JobRow) -> JobRow:
        """The job with its secrets masked."""
        hide = self._concealer(job)
        progress = self._database.privacy.redaction.mask(job.progress)
        return replace(
            job, args=self._args(job), progress=progress, last_error=_hidden(hide, job.last_error)
        )

    def attempts(self, job: JobRow, attempts: list[Attempt]) -> list[Attempt]:
        """The attempts with the job's secrets masked in their errors."""
        hide = self._concealer(job)
        return [
            replace(
                a,
                error=_hidden(hide, a.error),
                traceback=_hidden(hide, a.traceback),
                log=_hidden(hide, a.log),
            )
            for a in attempts
        ]

    def _args(self, job: JobRow) -> object:
        if not self._shows_arguments:
            return None
        if job.args == TOO_LARGE:
            return (
                f"[too large to list: pgqueue job {job.id} --show-args]"
                if self._lists
                else TOO_LARGE
            )
        if not isinstance(job.args, dict):  # put in by SQL
            return UNREADABLE
        if self._app is None:
            return dict.fromkeys(job.args, MASK)
        known = self._app.definition(job.task)
        redaction = self._app.privacy.redaction.plus(known.redact if known else ())
        return redaction.mask(job.args)

    def _concealer(self, job: JobRow) -> Callable[[str], str]:
        app = self._app or self._database
        known = app.definition(job.task)
        return app.privacy.concealer(
            job.task,
            _text(job.args),
            arguments=job.args if isinstance(job.args, dict) else None,
            redact=known.redact if known else (),
            encrypted=known.signature.encrypted if known else (),
        )


def _text(args: object) -> str:
    try:
        return json.dumps(args)
    except (ValueError, RecursionError):
        return "{}"


def _hidden(hide: Callable[[str], str], text: str | None) -> str | None:
    return None if text is None else hide(text)
