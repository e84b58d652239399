"""Where a worker looks behind its cursors, and how much of it at once. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import Lane, Swept
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.pace import ALL, Pace
from pgqueue.worker.trail import END, EVERY, FRONT, MOST_MARKS, Trail

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def place(number: int) -> tuple[datetime, int]:
    return START, number


def job(number: int) -> ClaimedJob:
    return ClaimedJob(number, "t", "{}", "q", 0, 1, 3, 0, START, None, None, 0.0, UUID(int=0))


def trail(marks: int) -> Trail:
    made = Trail()
    for number in range(marks):
        made.passed(place(number + 1), EVERY)
    return made


def test_a_way_is_gone_over_as_a_whole_where_it_is_short_or_looks_are_quick() -> None:
    assert trail(9).whole(0, ALL)
    assert not trail(9).whole(1, ALL)
    assert trail(9).whole(0, 8)
    assert not trail(9).whole(0, 7)
    assert Trail().whole(0, 0)


def test_stretches_cover_everything_once_up_to_the_cursor() -> None:
    way, cursor = trail(9), place(11)
    seen = [way.stretch(at, 3, cursor) for at in range(0, 10, 3)]
    assert seen == [
        (FRONT, place(3)),
        (place(3), place(6)),
        (place(6), cursor),
        (place(8), cursor),
    ]
    assert way.latest() == place(8)
    assert Trail().latest() == FRONT


def test_marks_come_at_once_and_then_every_so_many_jobs() -> None:
    way = Trail()
    for number in range(1, 10):
        way.passed(place(number), 1)
    assert way.marks == [place(1), place(2)]
    way.passed(place(10), EVERY)
    assert way.marks[2:] == [place(10)]
    way.back_to(place(2))
    assert way.marks == [place(1)]


def test_a_long_way_has_no_more_marks_but_longer_stretches() -> None:
    way = trail(3 * MOST_MARKS)
    assert MOST_MARKS // 2 <= len(way.marks) <= MOST_MARKS
    assert way.marks == sorted(way.marks)


def test_time_makes_marks_where_nothing_is_claimed() -> None:
    way = Trail()
    for second in range(0, 300, 10):
        way.seen(START + timedelta(seconds=second))
    assert [mark[0].minute for mark in way.marks] == [0, 1, 2, 3, 4]


def test_a_slow_look_is_followed_by_one_that_will_not_be() -> None:
    pace = Pace()
    pace.took(0.1, 64)
    assert pace.reach == ALL
    pace.took(0.2, 64)
    assert pace.reach == 16
    pace.took(0.05, 64)
    assert pace.reach == 16
    pace.took(0.2, 64)
    assert pace.reach == 4
    pace.took(60.0, 64)
    assert pace.reach == 1


def test_looks_grow_when_all_was_gone_over_quickly() -> None:
    pace = Pace()
    pace.took(0.2, 64)
    for seconds in (0.01, 0.01, 0.03, 0.01, 0.01, 0.01):
        pace.took(seconds, 64)
        assert pace.reach == 16
    pace.took(0.01, 64)
    assert pace.reach == 32
    for _ in range(2):
        pace.took(0.01, 64)
    assert pace.reach == 64
    pace.took(0.01, 64)
    assert pace.reach == ALL


def test_what_is_little_is_divided_only_when_it_was_cancelled() -> None:
    pace = Pace(least=50)
    pace.took(60.0, 64)
    assert pace.reach == 50
    pace.cut_short(64)
    assert pace.reach == 3
    pace.took(60.0, 64)
    assert pace.reach == 3


def swept_once(lanes: Lanes, now: float, took: float, jobs: int = 0) -> list[tuple[object, object]]:
    found = [(each.after, each.until) for each in lanes.slices(now)]
    lanes.swept(Swept([job(10**9)] * jobs, [], START), full=False, now=now, took=took)
    return found


def busy(marks: int) -> Lanes:
    lanes = Lanes()
    lanes.swept(Swept([], [("q", 0)], START), full=True, now=0.0, took=0.001)
    for number in range(1, marks + 1):
        lanes.claimed([job(number)] * EVERY)
    return lanes


def test_a_slow_sweep_is_followed_by_stretches_until_all_is_seen() -> None:
    lanes = busy(8)
    assert swept_once(lanes, 1.0, 0.11) == [(FRONT, END)]
    assert lanes.swept_all
    assert lanes.sweep_due(6.0)
    assert swept_once(lanes, 6.0, 0.01) == [(place(7), END)]  # the rest has had its time
    assert not lanes.swept_all
    assert not lanes.partial
    assert swept_once(lanes, 51.0, 0.05) == [(FRONT, place(4))]
    assert lanes.partial
    assert not lanes.swept_all
    assert swept_once(lanes, 60.0, 0.05) == [(place(4), place(8))]
    assert not lanes.swept_all
    swept_once(lanes, 70.0, 0.05)
    assert lanes.swept_all


def test_what_was_found_on_the_way_is_not_nothing() -> None:
    lanes = busy(8)
    swept_once(lanes, 1.0, 0.11)
    swept_once(lanes, 51.0, 0.05, jobs=1)
    for step in range(3):
        swept_once(lanes, 60.0 + 10 * step, 0.05)
        if lanes.swept_all:
            break
    assert step > 1


def test_one_that_was_cut_short_leaves_claims_to_go_on() -> None:
    lanes = busy(64)
    lanes.slices(1.0)
    lanes.cut_short(6.0, 5.0)
    assert not lanes.sweep_due(10.9)
    assert [(each.after, each.until) for each in lanes.slices(11.0)] == [(place(63), END)]
    assert lanes.slices(256.0)[0].until == place(4)


def test_what_was_given_back_is_looked_for_everywhere() -> None:
    lanes = busy(8)
    swept_once(lanes, 1.0, 0.5)
    lanes.look_again()
    assert lanes.slices(1.1)[0].after == FRONT


def test_an_unknown_lane_without_due_jobs_is_claimed_from_now_on() -> None:
    lanes = Lanes()
    lanes.swept(Swept([], [("q", 3)], NOW), full=False, now=0.0, took=0.0)
    assert [(lane.after_at, lane.after_id) for lane in lanes.in_order()] == [(NOW, 0)]


def test_a_full_sweep_far_behind_does_not_send_claims_over_all_that_died() -> None:
    lanes = busy(8)
    swept_once(lanes, 1.0, 0.11)
    assert lanes.slices(51.0)[0].until == place(4)
    lanes.swept(Swept([job(2)], [], START), full=True, now=51.0, took=0.05)
    assert [(lane.after_at, lane.after_id) for lane in lanes.in_order()] == [place(8)]
    assert lanes.slices(60.0)[0].until == place(4)  # once more: there may be others


def test_a_start_further_on_takes_no_cursor_back() -> None:
    lanes = busy(8)
    lanes.start_at([Lane("q", 0, *place(3)), Lane("other", 1, *place(5))])
    found = {(lane.queue, lane.after_id) for lane in lanes.in_order()}
    assert found == {("q", 8), ("other", 5)}
