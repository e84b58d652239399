"""Schedules against brute force: every minute of local time around the changes of the clock, 2024 to 2030."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from itertools import takewhile

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import ConfigError
from pgqueue.cron import ALIASES, Every, Fields, every, parse, upcoming, zone_of
from pgqueue.job import NewJob
from pgqueue.schedule import new_schedule

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
JOB = NewJob("t", "{}")
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FIXED = [
    "0 2 * * *",
    "30 2 * * *",
    "15,45 1-3 * * *",
    "0 3 * * 0",
    "59 1 * * *",
    "0 0 * * *",
    "5 2,3 * * 7",
]
MATCHING = [
    "*/15 * * * *",
    "0 * * * *",
    "*/20 2 * * *",
    "0 */2 * * *",
    "30 * * * 0",
    "* 2 * * *",
    "*/7 1-3 * 3,10 *",
]


def local(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


@cache
def changes(tz: str) -> list[datetime]:
    """The hours in which the offset from UTC changes."""
    zone, found, instant = zone_of(tz), [], START
    while instant < END:
        if instant.astimezone(zone).utcoffset() != (instant + HOUR).astimezone(zone).utcoffset():
            found.append(instant)
        instant += HOUR
    return found


@cache
def fields_of(text: str) -> CronSim:
    return CronSim(text, datetime(2024, 1, 1))


def shows(text: str, naive: datetime) -> bool:
    """Does a local time match? By cronsim's fields, without its iteration."""
    fields = fields_of(text)
    return (
        naive.second in fields.seconds
        and naive.minute in fields.minutes
        and naive.hour in fields.hours
        and naive.month in fields.months
        and fields.match_day(naive.date())
    )


def brute(text: str, tz: str, start: datetime, end: datetime) -> list[datetime]:
    """Ticks in (start, end], by walking every minute of real time and every minute of the wall clock."""
    zone = zone_of(tz)
    first_shown: dict[datetime, datetime] = {}
    instants = []
    instant = start - 3 * HOUR
    while instant <= end + 3 * HOUR:
        shown = local(instant, zone)
        first_shown.setdefault(shown, instant)
        if shows(text, shown):
            instants.append(instant)
        instant += MINUTE
    minute, hour = text.split()[-5:-3]
    if not (minute.startswith("*") or hour.startswith("*")):
        instants = [tick for _, tick in _wall(text, first_shown)]
    return sorted({tick for tick in instants if start < tick <= end})


def _wall(text: str, first_shown: dict[datetime, datetime]) -> Iterator[tuple[datetime, datetime]]:
    naive, last = min(first_shown), max(first_shown)
    while naive <= last:
        if shows(text, naive):
            behind = naive
            while behind not in first_shown and behind <= last:  # in a gap: the first after it
                behind += MINUTE
            yield naive, first_shown[behind]
        naive += MINUTE


def between(text: str, tz: str, start: datetime, end: datetime) -> list[datetime]:
    found = []
    for tick in parse(text, tz).after(start):
        if tick > end:
            return found
        found.append(tick)
    raise AssertionError


def test_the_zones_do_change_as_thought() -> None:
    # Governments change their minds; what matters is that there is something to test.
    assert all(len(changes(tz)) >= 6 for tz in ZONES)
    steps = {
        abs(
            (at + HOUR).astimezone(zone_of(tz)).utcoffset() - at.astimezone(zone_of(tz)).utcoffset()
        )  # type: ignore[operator]
        for tz in ZONES
        for at in changes(tz)
    }
    assert steps == {HOUR, HOUR / 2}


@pytest.mark.parametrize("tz", ZONES)
def test_around_every_change_of_the_clock(tz: str) -> None:
    for number, at in enumerate(changes(tz)):
        start, end = at - timedelta(hours=14), at + timedelta(hours=14)
        texts = (
            [*FIXED, *MATCHING] if number < 2 else random.Random(number).sample(FIXED + MATCHING, 3)
        )
        for text in texts:
            assert between(text, tz, start, end) == brute(text, tz, start, end), (text, at)


@pytest.mark.parametrize("tz", ZONES)
def test_a_daily_schedule_ticks_every_day_of_seven_years(tz: str) -> None:
    """Also when the time of day does not come, or comes twice."""
    for text in ("30 2 * * *", "0 0 2 * * *", "15 1 * * *"):
        days = [local(tick, zone_of(tz)).date() for tick in between(text, tz, START, END)]
        assert len(days) == len(set(days)) >= 2556


def test_known_gaps_and_overlaps() -> None:
    def ticks(text: str, tz: str, day: datetime, count: int) -> list[str]:
        start = day.replace(tzinfo=zone_of(tz)).astimezone(UTC) - timedelta(seconds=1)
        return [f"{t:%d %H:%M}" for t in upcoming(parse(text, tz), start, count)]

    gap, overlap = datetime(2026, 3, 29), datetime(2026, 10, 25)
    assert ticks("30 2 * * *", "Europe/Berlin", gap, 2) == ["29 01:00", "30 00:30"]
    assert ticks("0,30 2 * * *", "Europe/Berlin", gap, 2) == ["29 01:00", "30 00:00"]  # one tick
    assert ticks("10 30 2 * * *", "Europe/Berlin", gap, 1) == ["29 01:00"]  # six fields as well
    assert ticks("30 2 * * *", "Europe/Berlin", overlap, 2) == ["25 00:30", "26 01:30"]
    assert ticks("30 * * * *", "Europe/Berlin", overlap, 5)[2:] == [
        "25 00:30",
        "25 01:30",
        "25 02:30",
    ]
    assert ticks("15 2 * * *", "Australia/Lord_Howe", datetime(2026, 10, 4), 1) == ["03 15:30"]


def test_inside_the_hour_that_comes_twice_nothing_comes_twice() -> None:
    ticks = parse("*/5 2 * * *".replace("*/5", "0-55/5"), "Europe/Berlin")
    second_pass = datetime(2026, 10, 25, 1, 20, tzinfo=UTC)
    assert ticks.next_after(second_pass) == datetime(2026, 10, 26, 1, 0, tzinfo=UTC)


minutes = st.sampled_from(["*", "*/5", "0", "30", "10-20", "7,53"])
hours = st.sampled_from(["*", "*/3", "0", "2", "1-3", "23"])
dates = st.sampled_from(
    ["* * *", "1 * *", "L * *", "* * 1-5", "* 3,10 *", "13 * 5", "* * 0#1", "29 2 *"]
)
instants = st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(minutes, hours, dates, st.sampled_from(ZONES), instants, st.booleans())
def test_any_schedule_anywhere(
    minute: str, hour: str, date: str, tz: str, start: datetime, seconds: bool
) -> None:
    text = f"{minute} {hour} {date}"
    start = start.replace(second=0, microsecond=0)
    expected = brute(text, tz, start, start + DAY)
    assert between(f"0 {text}" if seconds else text, tz, start, start + DAY) == expected


@given(minutes, hours, dates, st.sampled_from([*ZONES, "UTC"]), instants)
@settings(deadline=None, derandomize=True)
def test_ticks_go_forward_and_agree(
    minute: str, hour: str, date: str, tz: str, start: datetime
) -> None:
    ticks = parse(f"{minute} {hour} {date}", tz)
    found = upcoming(ticks, start, 4)
    assert start < found[0]
    assert found == sorted(set(found))
    assert all(tick.tzinfo is UTC for tick in found)
    # Whenever and by whomever they are computed.
    assert ticks.next_after(found[1] - timedelta(microseconds=1)) == found[1]
    assert ticks.latest(start, found[3], 2) == found[2:]
    assert ticks.latest(found[0], found[3], 100) == found[1:]
    assert ticks.latest(found[0], found[0], 1) == []


LIMITS = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day-of-month": (1, 31), "month": (1, 12),
          "day-of-week": (0, 7)}  # fmt: skip
NAMES = {"month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
         "day-of-week": ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]}  # fmt: skip
Term = tuple[str, frozenset[int]]


@st.composite
def terms(draw: st.DrawFn, field: str) -> Term:
    """A term of a field, and the values that it stands for."""
    low, high = LIMITS[field]
    start, end = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    end = draw(st.sampled_from([start, end]))
    step = draw(st.integers(1, high + 1))

    def said(value: int) -> str:
        names = NAMES.get(field, [])
        named = value - low < len(names) and draw(st.booleans())
        return names[value - low] if named else draw(st.sampled_from([f"{value}", f"0{value}"]))

    return draw(
        st.sampled_from(
            [
                ("*", frozenset(range(low, high + 1))),
                (f"*/{step}", frozenset(range(low, high + 1, step))),
                (said(start), frozenset([start])),
                (f"{said(start)}/{step}", frozenset(range(start, high + 1, step))),
                (f"{said(start)}-{said(end)}", frozenset(range(start, end + 1))),
                (f"{said(start)}-{said(end)}/{step}", frozenset(range(start, end + 1, step))),
            ]
        )
    )


UNIT = {"second": 0, "minute": 0, "hour": 0, "day-of-month": "*", "month": "*", "day-of-week": "*"}
PERIOD = {"second": MINUTE, "minute": HOUR, "hour": DAY}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.sampled_from([*LIMITS]).flatmap(
    lambda field: st.tuples(st.just(field), st.lists(terms(field), min_size=1, max_size=3))))  # fmt: skip
def test_every_term_is_what_it_says(case: tuple[str, list[Term]]) -> None:
    field, found = case
    text = " ".join(str(each) for each in {**UNIT, field: ",".join(t for t, _ in found)}.values())
    values = frozenset().union(*(v for _, v in found))
    end = START + PERIOD.get(field, 366 * DAY)
    ticks = list(takewhile(lambda t: t < end, parse(text).after(START - timedelta(microseconds=1))))
    if field == "day-of-week":
        assert {tick.isoweekday() % 7 for tick in ticks} == {value % 7 for value in values}
    else:
        shown = {"day-of-month": "day"}.get(field, field)
        assert {getattr(tick, shown) for tick in ticks} == values


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("5-5/1 * * * *", "5 * * * *"),
        ("0 9-9/2 * * *", "0 9 * * *"),
        ("0 0,9-9/2,12-14/2 * * *", "0 0,9,12,14 * * *"),
        ("0 0 3-3/1 * *", "0 0 3 * *"),
        ("0 0 1 feb-FEB/1 *", "0 0 1 2 *"),
        ("0 0 1 2-feb/3 *", "0 0 1 2 *"),
        ("0 0 * * mon-1/2", "0 0 * * 1"),
        ("7-07/1 5-5/9 0 * * *", "7 5 0 * * *"),
    ],
)
def test_a_range_of_one_value_with_a_step_is_that_value(text: str, same: str) -> None:
    assert upcoming(parse(text), START, 50) == upcoming(parse(same), START, 50)


def test_latest_of_a_long_absence_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Every.next_after
    monkeypatch.setattr(Every, "next_after", lambda *a: calls.append(1) or original(*a))
    found = parse("every 1s").latest(START, END, 100)
    assert found[-1] == END
    assert len(found) == 100
    assert len(calls) < 1000


def test_intervals() -> None:
    assert every("90m") == "every 5400s"
    assert every(timedelta(days=1)) == "every 86400s"
    ticks = parse("every 1h30m", "Europe/Berlin")
    assert upcoming(ticks, START, 2) == [START + timedelta(minutes=90), START + timedelta(hours=3)]
    assert parse(every("1.5s")).next_after(START) == START + timedelta(seconds=1.5)
    assert parse("Every 30 s").next_after(START) == START + timedelta(seconds=30)


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=365))
    | st.integers(1, 365).map(lambda n: timedelta(days=n))
    | st.integers(1, 365 * 86_400).map(lambda n: timedelta(seconds=n))
)
@settings(deadline=None, derandomize=True)
def test_any_interval_up_to_a_year_is_read_back_exactly(interval: timedelta) -> None:
    assert parse(every(interval)) == Every(interval)


@pytest.mark.parametrize("text", ["30d", "365d", "12d", "1000001s", "4w", "52w", "99999.5s"])
def test_long_intervals_as_text(text: str) -> None:
    assert parse(every(text)) == parse(f"every {text}")
    assert new_schedule("s", JOB, {"every": text}).expression == every(text)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias: str) -> None:
    assert parse(alias) == parse(ALIASES[alias]) == parse(alias.upper())
    assert isinstance(parse(alias), Fields)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "text such as"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("60 * * * *", "the minute '60'"),
        ("0 24 * * *", "the hour '24'"),
        ("0 0 32 * *", "the day-of-month '32'"),
        ("0 0 * 13 *", "the month '13'"),
        ("0 0 * * 8", "the day-of-week '8'"),
        ("61 * * * * *", "the second '61'"),
        ("*/0 * * * *", "the minute '\\*/0'"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 L-3 * *", "the day-of-month 'L-3'"),
        ("0 0 * * L", "the day-of-week 'L'"),
        ("@reboot", "there is no @reboot; there are @yearly"),
        ("every", "has 1 fields"),
        ("every 0.5s", "from 1s to 365d"),
        ("every 2y", "every must look like"),
        ("x" * 201, "at most 200"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "tz", ["", "Mars/Base", "../../etc/passwd", "Europe", "CEST5", None, "europe/berlin"]
)
def test_wrong_zones(tz: str) -> None:
    with pytest.raises(ConfigError, match="no time zone"):
        parse("@daily", tz)


@given(
    st.text(st.characters(codec="ascii"), max_size=25)
    | st.text("0123456789*/,-#L @every", max_size=20)
)
@settings(deadline=None, derandomize=True)
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        ticks = parse(text)
    except ConfigError:
        return
    assert ticks.next_after(START) > START
