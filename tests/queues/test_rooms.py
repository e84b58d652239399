"""When a process looks for room, and how much of it it takes for itself. Pure."""

from __future__ import annotations

import pytest

from pgqueue.errors import QueueFull
from pgqueue.job import NewJob
from pgqueue.queues import declared_queue
from pgqueue.rooms import Rooms, Seen

MAIL = NewJob("t", "{}", "mail")


def seen(pending: int, most: int | None = 6400, *, frozen: bool = False) -> Seen:
    return Seen("mail", most, None, None, None, None, pending, frozen)


def rooms(**settings: object) -> Rooms:
    return Rooms({"mail": declared_queue(max_pending=6400, **settings)})  # type: ignore[arg-type]


def test_only_declared_queues_count() -> None:
    jobs = [MAIL, MAIL, NewJob("t", "{}", "other")]
    assert rooms().counts(jobs) == {"mail": 2}
    assert rooms().counts(jobs, jobs[2:]) == {"mail": 0}
    assert Rooms({}).counts(jobs) == {}


def test_it_looks_first_then_lives_off_a_64th_of_the_room_for_a_second() -> None:
    mail = rooms()
    assert not mail.take({"mail": 1}, 0.0)
    assert mail.take_of([seen(0)], {"mail": 0}, 0.0) is None
    assert mail.take({"mail": 60}, 0.5)
    assert mail.take({"mail": 40}, 0.5)
    assert not mail.take({"mail": 1}, 0.5)
    assert mail.take_of([seen(100)], {"mail": 1}, 0.5) is None
    assert mail.take({"mail": 1}, 1.4)
    assert not mail.take({"mail": 1}, 1.5)


def test_the_fuller_the_queue_the_more_often_it_looks() -> None:
    mail = rooms()
    assert mail.take_of([seen(6336)], {"mail": 0}, 0.0) is None
    assert mail.take({"mail": 1}, 0.1)
    assert not mail.take({"mail": 1}, 0.1)


def test_after_a_look_all_the_room_may_be_taken_at_once() -> None:
    mail = rooms()
    assert mail.take_of([seen(400)], {"mail": 6000}, 0.0) is None
    assert not mail.take({"mail": 1}, 0.0)
    full = mail.take_of([seen(400)], {"mail": 6001}, 0.0)
    assert full is not None
    assert full.name == "mail"


def test_without_a_bound_it_looks_once_a_second_for_the_defaults() -> None:
    mail = rooms()
    assert mail.take_of([seen(0, None)], {"mail": 10**9}, 0.0) is None
    assert mail.take({"mail": 10**9}, 0.9)
    assert not mail.take({"mail": 1}, 1.0)


def test_waits_grow_and_end() -> None:
    mail = rooms(when_full="wait", max_wait=10)
    full = seen(6400)
    assert [mail.wait(full, 1, waited, True) for waited in (0.0, 1.0, 9.0, 9.5)] == [
        0.02,
        0.25,
        1.0,
        0.5,
    ]
    for jobs, waited, known, ours in (
        (1, 10.0, full, True),
        (6401, 0.0, full, True),
        (1, 0.0, seen(6400, frozen=True), False),
    ):
        with pytest.raises(QueueFull):
            mail.wait(known, jobs, waited, ours)
    assert mail.wait(seen(6400, frozen=True), 1, 0.0, True) == 0.02
    with pytest.raises(QueueFull):
        rooms().wait(full, 1, 0.0, True)
