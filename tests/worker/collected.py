"""A task that tells how often its process collects garbage."""

from __future__ import annotations

import gc

from pgqueue import App

app = App()


@app.task(name="threshold", result=True)
def threshold() -> int:
    return gc.get_threshold()[0]
