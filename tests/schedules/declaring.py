"""An app with schedules, for the command line."""

from __future__ import annotations

import os

from pgqueue import App, Job

app = App()


@app.task(cron="30 2 * * *", tz="Europe/Oslo", overlap="skip")
def nightly(days: int = 1) -> None: ...


@app.task
def report(kind: str) -> None: ...


class Poll(Job):
    url: str

    def handle(self) -> None: ...


app.cron("0 9 * * 1-5", report.call("sales"), name="sales", tz="America/New_York", catch_up="all")
app.every("30s", app.dispatch(Poll("https://example.org")).with_priority(5).call(), name="poll")
if "WITHOUT_STOCK" not in os.environ:
    app.cron("@daily", report.with_queue("slow").call("stock"), name="stock")
