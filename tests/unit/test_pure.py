"""The pure parts, without a database."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import App, Backoff, Cancel, Dead, Retry, Snooze
from pgqueue.client import AsyncClient, Client
from pgqueue.config import Given, Settings, load
from pgqueue.durations import seconds
from pgqueue.errors import ConfigError
from pgqueue.job import ClaimedJob
from pgqueue.jsontext import depth
from pgqueue.operations.claims import Swept
from pgqueue.outcome import MESSAGE_LIMIT, clean, decide
from pgqueue.retry import backoff_from
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.trail import FRONT


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (60, 60), (1.5, 1.5), ("60", 60), ("60s", 60), ("1h30m", 5400), ("250ms", 0.25),
        ("2d", 172_800), ("1w", 604_800), (timedelta(minutes=2), 120), (" 10m ", 600), (0, 0),
    ],
)  # fmt: skip
def test_durations(given_: object, expected: float) -> None:
    assert seconds(given_) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [-1, "", "soon", "-5s", "10", True, None, "1y", 1e300, "366d", []]
)
def test_wrong_durations(wrong: object) -> None:
    if wrong == "10":
        assert seconds("10") == 10
    else:
        with pytest.raises(ConfigError, match="duration"):
            seconds(wrong)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert seconds(text) >= 0


def test_backoff_of_a_bare_duration() -> None:
    assert backoff_from("60s") == Backoff(60)
    assert backoff_from("2h").cap == 7200
    for wrong in ({"factor": 0.5}, {"jitter": 2}, {"base": -1}):
        with pytest.raises(ConfigError, match="must be"):
            Backoff(**wrong)


@given(st.text(alphabet=st.characters(), max_size=200))
def test_clean_text_can_be_stored(text: str) -> None:
    cleaned = clean(text, 100)
    cleaned.encode("utf-8")
    assert "\0" not in cleaned


def test_clean_cuts_the_middle() -> None:
    assert len(clean("x" * 10**6, MESSAGE_LIMIT)) < MESSAGE_LIMIT + 100


def test_decisions() -> None:
    def kind(error: BaseException, **options: object) -> str:
        return decide(error, attempt=1, **options).kind  # type: ignore[arg-type]

    assert kind(ValueError()) == "retry"
    assert kind(ValueError(), retry_on=(OSError,)) == "dead"
    assert kind(ConnectionResetError(), retry_on=(OSError,)) == "retry"
    assert kind(Retry()) == "retry"
    assert kind(Snooze(5)) == "snooze"
    assert kind(Dead()) == "dead"
    assert kind(Cancel()) == "cancelled"
    assert decide(ValueError(), attempt=3, backoff=lambda attempt: attempt * 10.0).delay == 30
    broken = decide(ValueError(), attempt=1, backoff=lambda attempt: 1 / 0)
    assert (broken.kind, broken.delay) == ("retry", None)
    assert "ZeroDivisionError" in (broken.traceback or "")


@pytest.mark.parametrize(
    ("text", "expected"), [("1", 0), ("[[1]]", 2), ('{"a":[{}]}', 3), ('"[[["', 0), (r'"\"[[" ', 0)]
)
def test_depth(text: str, expected: int) -> None:
    assert depth(text) == expected


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def job(number: int, priority: int = 0, queue: str = "q") -> ClaimedJob:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return ClaimedJob(number, "t", "{}", queue, priority, 1, 3, 0, at, None, None, 0.0, UUID(int=0))


def test_cursors_move_forward_and_sweeps_bring_them_back() -> None:
    lanes = Lanes()
    assert lanes.sweep_due(0)
    lanes.swept(Swept([job(5), job(3)], [], NOW), full=True, now=1.0, took=0.01)
    assert [lane.after_id for lane in lanes.in_order()] == [5]
    assert not lanes.sweep_due(1.1)
    lanes.claimed([job(9), job(7)])
    lanes.claimed([job(8)])
    assert [lane.after_id for lane in lanes.in_order()] == [9]
    lanes.swept(Swept([job(2)], [], NOW), full=True, now=2.0, took=0.01)
    assert [lane.after_id for lane in lanes.in_order()] == [2]
    lanes.swept(Swept([job(1)], [], NOW), full=False, now=3.0, took=0.01)
    assert [lane.after_id for lane in lanes.in_order()] == [2]


def test_lanes_that_a_full_sweep_did_not_reach_are_claimed_from_their_front() -> None:
    lanes = Lanes()
    lanes.swept(Swept([job(5)], [("q", 0), ("other", 0)], NOW), full=True, now=1.0, took=0.01)
    found = {lane.queue: (lane.after_at, lane.after_id) for lane in lanes.in_order()}
    assert found == {"q": (job(5).run_at, 5), "other": FRONT}
    lanes.claimed([job(7, queue="other")])
    lanes.swept(Swept([], [("other", 0)], NOW), full=False, now=2.0, took=0.01)
    assert {lane.after_id for lane in lanes.in_order()} == {5, 7}


def test_sweeps_take_a_twentieth_of_the_time_but_come_every_five_seconds() -> None:
    lanes = Lanes()
    lanes.swept(Swept([job(1)], [], NOW), full=True, now=10.0, took=0.1)
    assert not lanes.sweep_due(11.9)
    assert lanes.sweep_due(12.0)
    lanes.swept(Swept([job(1)], [], NOW), full=True, now=10.0, took=3.0)
    assert lanes.until_sweep(10.0) == 5.0


def test_lanes_are_in_order_of_priority_and_queues_take_turns() -> None:
    lanes = Lanes()
    jobs = [job(n, p, q) for n, (p, q) in enumerate([(0, "a"), (9, "a"), (0, "b"), (9, "b")])]
    lanes.swept(Swept(jobs, [], NOW), full=True, now=0.0, took=0.0)
    orders = [[(x.priority, x.queue) for x in lanes.in_order()] for _ in range(4)]
    assert all([p for p, _ in order] == [9, 9, 0, 0] for order in orders)
    assert {order[0][1] for order in orders} == {"a", "b"}


def test_both_clients_are_the_same() -> None:
    def face(client: type) -> dict[str, tuple[str, str | None]]:
        return {
            name: (str(inspect.signature(method)), method.__doc__)
            for base in client.__mro__[:-1]
            for name, method in vars(base).items()
            if not name.startswith("_")
        }

    assert face(Client) == face(AsyncClient)


def test_settings_come_from_the_environment_over_files(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "pgqueue.toml").write_text('dsn = "a"\nlease = "30s"\nconcurrency = 7\n')
    config = load(folder, {"PGQUEUE_CONCURRENCY": "9", "PGQUEUE_NOTIFY": "off", "OTHER": "x"})
    assert (config.dsn, config.settings.lease, config.settings.concurrency) == ("a", 30, 9)
    assert config.settings.notify is False
    assert Settings().with_(keep_succeeded="forever").keep_succeeded is None
    for wrong in ({"lease": "soon"}, {"concurrency": "many"}, {"notify": "maybe"}, {"poll": 0}):
        with pytest.raises(ConfigError):
            Settings().with_(**wrong)
    (folder / "pgqueue.toml").write_text("lease = [")
    with pytest.raises(ConfigError, match=r"pgqueue\.toml"):
        load(folder, {})


def test_a_dispatch_that_is_dropped_warns() -> None:
    from pgqueue import Job

    class Dropped(Job):
        name = "dropped"

        def handle(self) -> None: ...

    with pytest.warns(ResourceWarning, match="never sent"):
        App("").dispatch(Dropped()).with_priority(1)


def test_the_settings_a_worker_takes_are_all_settings() -> None:
    assert list(Given.__annotations__) == [field.name for field in fields(Settings)]
