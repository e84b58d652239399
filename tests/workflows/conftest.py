"""Two tasks for workflows."""

from __future__ import annotations

import pytest

from pgqueue import App, Dead


@pytest.fixture
def ran(app: App) -> list[str]:
    """The names of jobs in the order they ran; ``note`` and ``fail`` are the tasks."""
    names: list[str] = []

    @app.task(name="note")
    async def note(name: str, value: int = 0) -> int:
        names.append(name)
        return value + 1

    @app.task(name="fail", max_retries=0)
    async def fail(name: str) -> None:
        names.append(name)
        raise Dead(name)

    return names
