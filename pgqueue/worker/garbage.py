"""How often a worker process looks for garbage in cycles."""

from __future__ import annotations

import gc

# The interpreter's own, by version: https://docs.python.org/3/library/gc.html#gc.set_threshold
USUAL = (700, 2000)
YOUNG = 10_000


def collect_less_often() -> None:
    """Let 10,000 new objects be there before a look, not 700, unless the application has chosen a number.

    A batch of jobs is thousands of objects, none of them garbage while it runs: looks find nothing, and cost.
    """
    young, *older = gc.get_threshold()
    if young in USUAL:
        gc.set_threshold(YOUNG, *older)
