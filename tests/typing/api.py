"""The public API as a type checker sees it: right calls pass, wrong ones are reported."""

from __future__ import annotations

from typing import Annotated, Any, assert_type

from pgqueue import (
    App,
    Backoff,
    Context,
    Encrypted,
    Handle,
    Job,
    Keys,
    Schedule,
    Secret,
    Status,
    Task,
    Worker,
)

app = App(redact=["iban"], keys=Keys(Keys.generate()))


@app.task
def plain(to: str, count: int = 1) -> str:
    return to * count


@app.task(queue="mail", max_retries=5, backoff=Backoff.exponential("30s", cap="1h"))
async def with_options(ctx: Context, number: int) -> float:
    return number / 2


@app.task(redact=["colour"])
def login(user: str, password: Secret[str], pin: Annotated[int, Encrypted] = 0) -> None:
    assert_type(password, str)


class Login(Job):
    phrase: Secret[str]
    hint: Secret[str] | None = None

    def handle(self) -> None:
        assert_type(self.phrase, str)


class Invoice(Job):
    order: int
    queue = "billing"

    async def handle(self) -> None: ...


class Patient(Job):
    def backoff(self, attempt: int) -> float:
        return 10.0 * attempt

    def handle(self) -> None: ...


@app.task(cron="0 9 * * 1-5", tz="Europe/Oslo", catch_up="all", overlap="skip")
def nightly(days: int = 1) -> str:
    return "done"


@app.task(every="30s")
async def often(ctx: Context) -> None: ...


def correct_schedules() -> None:
    assert_type(nightly.enqueue(days=2), Handle[str])
    app.cron("@daily", plain.call("a"), name="a", tz="Europe/Oslo")
    app.every("10m", with_options.call(3), overlap="skip")
    assert_type(app.dispatch(Invoice(1)).with_cron("@daily").with_priority(3).enqueue(), Schedule)
    assert_type(app.client.schedules(), list[Schedule])


async def correct_async_schedules() -> None:
    assert_type(await app.dispatch(Invoice(1)).with_max_retries(1).with_cron("@daily"), Schedule)
    assert_type(await app.aclient.run_schedule("a"), int)


def wrong_schedules() -> None:
    app.task(cron="@daily", catch_up="some")  # type: ignore[call-overload]
    app.task(crom="@daily")  # type: ignore[call-overload]
    app.cron("@daily", plain)  # type: ignore[arg-type]


def correct() -> None:
    assert_type(plain.enqueue("a", count=2), Handle[str])
    plain.with_max_retries(5).with_backoff("60s").with_delay("10m").with_priority(9).enqueue("a")
    urgent = plain.with_queue("urgent").on(object())
    assert_type(urgent.enqueue("a"), Handle[str])
    assert_type(plain.with_max_retries(5).enqueue("a"), Handle[str])
    assert_type(plain.enqueue("a").status(), Status)
    assert_type(plain.enqueue("a").peek(), str | None)
    assert_type(plain.enqueue("a").peek(3), str | int)
    app.enqueue_many([plain.call("a"), with_options.call(3), app.named("t").call(a=1)])
    assert_type(app.named("t").on(object()).with_priority(3).enqueue(a=1), Handle[Any])
    app.dispatch(Invoice(42)).with_max_retries(5).with_backoff(60).enqueue()
    login.enqueue("ada", "hunter2", pin=4711)
    app.dispatch(Login("hunter2")).enqueue()
    Worker(app, {"mail": 20}, lease="30s").concurrency(4)


async def correct_async() -> None:
    assert_type(await with_options.aenqueue(3), Handle[float])
    await app.dispatch(Invoice(42)).with_max_retries(5).with_backoff(60)


def wrong() -> None:
    plain.enqueue(1)  # type: ignore[arg-type]
    plain.enqueue()  # type: ignore[call-arg]
    plain.with_queue("a").enqueue("a", colour="red")  # type: ignore[call-arg]
    with_options.enqueue("three")  # type: ignore[arg-type]
    Invoice("42")  # type: ignore[arg-type]
    Worker(app, concurency=3)  # type: ignore[call-arg]
    Worker(app, lease=[60])  # type: ignore[arg-type]
    login.enqueue("ada", 3)  # type: ignore[arg-type]
    Login(3)  # type: ignore[arg-type]


task: Task[[str, int], str]
