"""Options of the wrong type or range, everywhere they are given: refused at once, by an error that names the option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import (
    App,
    Backoff,
    ConfigError,
    Filter,
    Job,
    Keys,
    PgQueueError,
    Retry,
    Snooze,
    Unique,
    Worker,
)
from pgqueue.config import Given, Settings
from pgqueue.definition import TaskOptions
from pgqueue.durations import seconds
from pgqueue.queues import QueueGiven
from pgqueue.sizes import size

THING = object()
NAN = float("nan")
NO_WHOLE = [True, 1.5, NAN, [], b"5", THING, {}]
COUNT = [*NO_WHOLE, "5", -1, 0, 2**31, 2**70, -(2**70)]
DURATION = [
    True,
    NAN,
    float("inf"),
    [],
    b"5",
    THING,
    "",
    "soon",
    "a\0b",
    -1,
    2**70,
    "9" * 400 + "d",
    "-1s",
]
FLAG = [5, 0, "no", "", None, [], THING, NAN]
TEXT = [5, 1.5, b"x", [], {}, THING, True]
NAME = [*TEXT, "a\0b", "\ud800", "x" * 300, "\n"]
QUEUE = [*NAME, "", "a b", "ü"]
ONE_OF = [*NAME, "", "nothing"]
NAMES = [5, THING, True, "one", [5], [None], [THING], {5: 5}]
RATE = [
    True,
    NAN,
    [],
    b"5",
    THING,
    "",
    "5",
    "5/0s",
    "5/soon",
    "a\0b",
    -1,
    0,
    2**70,
    "9" * 400 + "/s",
]
FACTOR = [True, NAN, "2", [], THING, 0.5, -1, 2**70]

OPTIONS: dict[str, list[Any]] = {
    "queue": QUEUE, "name": NAME, "priority": [*NO_WHOLE, "5", -32769, 32768, 2**70],
    "max_retries": [*NO_WHOLE, "5", -1, 1001, 2**70], "backoff": DURATION, "timeout": [*DURATION, 0],
    "run": ONE_OF, "retry_on": [5, "ValueError", THING, True, int, [5], ["x"]], "aliases": [*NAMES, [""]],
    "redact": [*NAMES, [""]], "result": FLAG, "unique": [5, 1.5, b"x", THING, [5], [THING], {5: 5}],
    "expires": DURATION, "limit": COUNT, "rate": RATE, "burst": COUNT, "per": [*TEXT, ""], "order_by": [*TEXT, ""],
    "ordered": [*ONE_OF, None], "fair_by": [*TEXT, ""],
    "weights": [5, "a", [], THING, True, {"a": 0}, {"a": 1001}, {"a": True}, {"a": "x"}],
    "cron": [*TEXT, "", "every", "* * *", "x" * 300], "every": [*DURATION, 0.5], "tz": [*ONE_OF, None],
    "catch_up": [*ONE_OF, None], "overlap": [*ONE_OF, None],
    "max_pending": [*COUNT, 100_000_001], "keep_succeeded": DURATION, "keep_dead": DURATION,
    "keep_cancelled": DURATION, "keep_events": DURATION, "when_full": [*ONE_OF, None], "max_wait": [*DURATION, None],
    "concurrency": [*NO_WHOLE, "x", None, 0, -1, 10_001, 2**70], "processes": [*NO_WHOLE, "x", None, 0, -1, 10_001],
    "max_crashes": [*NO_WHOLE, "x", None, 0, -1, 10_001], "prefetch": [*NO_WHOLE, "x", -1, 10_001, 2**70],
    "lease": [*DURATION, None, 0.5], "poll": [*DURATION, None, 0], "grace": [*DURATION, None],
    "default_timeout": DURATION, "newer_worker_wait": DURATION,
    "max_rss": [True, NAN, [], b"5", THING, "", "much", 0, -1, 2**70, "9" * 400],
    "notify": [5, 0, "perhaps", "", None, [], THING, NAN],
    "drain": FLAG, "max_jobs": COUNT,
    "queues": [5, True, "mail", b"mail", THING, [5], [None], [""], {"mail": 0}, {"mail": -1}, {"mail": None},
               {"mail": True}, {"mail": "x"}, {5: 5}, {"a b": 1}, {"mail": 10_001}],
}  # fmt: skip


def of_task(**option: Any) -> None:
    app = App("postgresql://nowhere")
    needs: dict[str, dict[str, Any]] = {
        "burst": {"rate": "5/s"}, "per": {"limit": 1}, "ordered": {"order_by": "x"}, "weights": {"fair_by": "x"},
        "tz": {"cron": "@daily"}, "catch_up": {"cron": "@daily"}, "overlap": {"cron": "@daily"},
    }  # fmt: skip
    (name,) = option

    def task(x: int = 0) -> None: ...

    app.task(**needs.get(name, {}), **option)(task)


def of_queue(**option: Any) -> None:
    App("postgresql://nowhere").queue(
        "mail", **({"rate": "5/s"} if "burst" in option else {}), **option
    )


def of_worker(**option: Any) -> None:
    Worker(App("postgresql://nowhere"), **option)


def of_job_class(**option: Any) -> None:
    type("Hostile", (Job,), {**option, "handle": lambda self: None})


def request() -> Any:
    def task(x: int = 0) -> None: ...

    return App("postgresql://nowhere").task(name="t")(task)


def schedule(**option: Any) -> None:
    app = App("postgresql://nowhere")
    job = app.task(name="t")(lambda: None).call()
    app.cron("@daily", job, **option)


PLACES: list[tuple[str, Callable[..., Any], list[str]]] = [
    ("task", of_task, [*sorted(TaskOptions.__annotations__), "cron", "every", "tz", "catch_up", "overlap"]),
    ("queue", of_queue, [*sorted(QueueGiven.__annotations__), "when_full", "max_wait"]),
    ("worker", of_worker, [*sorted(Given.__annotations__), "drain", "max_jobs", "queues"]),
    ("job class", of_job_class, ["name", "queue", "priority", "max_retries", "backoff", "timeout", "run", "retry_on",
                                 "aliases", "redact", "unique", "expires", "result"]),
    ("schedule", schedule, ["name", "tz", "catch_up", "overlap"]),
    ("app", lambda **option: App(**option), ["notify", "redact"]),
]  # fmt: skip
# None is "not given", or a duration that the option takes.
CALLED = {"queue": ["queue"], "queues": ["queue", "concurrency"], "tz": ["tz", "time zone"], "backoff": ["backoff"],
          "name": ["name"], "aliases": ["aliases", "task name"], "cron": ["cron"], "overlap": ["overlap"]}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "call", "option"),
    [(place, call, option) for place, call, options in PLACES for option in dict.fromkeys(options)],
    ids=[f"{place}-{option}" for place, _, options in PLACES for option in dict.fromkeys(options)],
)
def test_an_option(place: str, call: Callable[..., Any], option: str) -> None:
    faults = []
    for value in OPTIONS[option]:
        if place == "job class" and option == "backoff" and callable(value):
            continue
        try:
            call(**{option: value})
        except PgQueueError as error:
            if not any(word in str(error) for word in CALLED.get(option, [option])):
                faults.append(f"{value!r:.60}: does not name it: {error!s:.150}")
        except Exception as error:
            faults.append(f"{value!r:.60}: {type(error).__name__}: {error!s:.100}")
        else:
            faults.append(f"{value!r:.60}: taken")
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("with_queue", [*QUEUE, None]),
        ("with_priority", [*OPTIONS["priority"], None]),
        ("with_max_retries", [*OPTIONS["max_retries"], None]),
        ("with_backoff", [*DURATION, None]),
        ("with_delay", [*DURATION, None]),
        ("with_expires", [*DURATION, None]),
        ("with_run_at", [*TEXT, None, "2026-01-01"]),
        ("with_unique", [*[each for each in NAME if each != "\n" and each != "x" * 300], "x" * 301, ""]),
    ],
)  # fmt: skip
def test_a_verb(verb: str, values: list[Any]) -> None:
    taken = []
    for value in values:
        try:
            getattr(request(), verb)(value)
            taken.append(value)
        except ConfigError as error:
            word = verb.removeprefix("with_")
            assert word in str(error), error
    assert not taken


@pytest.mark.parametrize(
    "app", [None, 5, "shop:app", App, object()], ids=lambda app: str(type(app))
)
def test_a_worker_of_no_app(app: Any) -> None:
    with pytest.raises(ConfigError, match="a worker takes an App, such as Worker\\(app\\), got"):
        Worker(app)


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (lambda v: Backoff(base=v), DURATION),
        (lambda v: Backoff(cap=v), DURATION),
        (lambda v: Backoff(factor=v), FACTOR),
        (lambda v: Backoff(jitter=v), [*FACTOR[:5], -1, 1.5]),
        (lambda v: Unique(by=v), [5, "x", [5], THING]),
        (lambda v: Unique(until=v), ONE_OF),
        (lambda v: Unique(within=v), DURATION),
        (lambda v: Unique(on_conflict=v), ONE_OF),
        (lambda v: Retry(after=v), DURATION),
        (lambda v: Snooze(v), [*DURATION, None]),
        (lambda v: seconds(v), [*DURATION, None]),
        (lambda v: size(v), [*OPTIONS["max_rss"], None]),
        (lambda v: Keys(v), [*TEXT, None, "", "a\0b", "ü", "x"]),
        (lambda v: Filter(since=v).values(), DURATION),
        (lambda v: App(v), [5, True, THING, [], [5], [None], {}]),
        (lambda v: App(schema=v), [*TEXT, "", "a\0b", "Pgqueue", "pg_x", "public", "x" * 64]),
        (lambda v: App(keys=v), [5, "x", b"x", [], THING]),
        (lambda v: Settings(lease=v), [None, 0.5]),
    ],
)  # fmt: skip
def test_a_value(make: Callable[[Any], Any], bad: list[Any]) -> None:
    taken = []
    for value in bad:
        try:
            make(value)
            taken.append(value)
        except ConfigError:
            pass
    assert not taken


def test_a_backoff_of_text_is_stored_as_seconds() -> None:
    assert Backoff(base="10s", cap="1h").as_json()["cap"] == 3600.0  # type: ignore[arg-type]


def test_what_max_pending_allows_is_said() -> None:
    with pytest.raises(ConfigError, match="from 1 to 100,000,000"):
        of_queue(max_pending=100_000_001)
