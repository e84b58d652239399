"""Jobs as they may be shown: secret arguments masked, also where an error repeats them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from pgqueue import config
from pgqueue.app import App
from pgqueue.cli.application import load_app
from pgqueue.job import Attempt, JobRow
from pgqueue.redact import MASK


class Viewer:
    """Masks by the names of the settings, and by those of the app and its tasks if it is known.

    A configured app that cannot be imported leaves no argument shown; one that was asked for is an error.
    """

    def __init__(self, app: App, path: str | None) -> None:
        self._database, self._path = app, path

    @cached_property
    def _app(self) -> App | None:
        if self._path is not None:
            return load_app(self._path)
        configured = config.load().app
        if configured is None:
            return self._database
        try:
            return load_app(configured)
        except Exception:
            return None

    def job(self, job: JobRow) -> JobRow:
        """The job with its secrets masked."""
        hide = self._concealer(job)
        return replace(job, args=self._args(job), last_error=_hidden(hide, job.last_error))

    def attempts(self, job: JobRow, attempts: list[Attempt]) -> list[Attempt]:
        """The attempts with the job's secrets masked in their errors."""
        hide = self._concealer(job)
        return [
            replace(a, error=_hidden(hide, a.error), traceback=_hidden(hide, a.traceback))
            for a in attempts
        ]

    def _args(self, job: JobRow) -> object:
        if self._app is None:
            return dict.fromkeys(job.args, MASK) if isinstance(job.args, dict) else MASK
        known = self._app.definition(job.task)
        redaction = self._app.privacy.redaction.plus(known.redact if known else ())
        return redaction.mask(job.args)

    def _concealer(self, job: JobRow) -> Callable[[str], str]:
        app = self._app or self._database
        known = app.definition(job.task)
        return app.privacy.concealer(
            job.task,
            json.dumps(job.args),
            redact=known.redact if known else (),
            encrypted=known.signature.encrypted if known else (),
        )


def _hidden(hide: Callable[[str], str], text: str | None) -> str | None:
    return None if text is None else hide(text)
