"""Whose turn it is: shares are as the weights say, however many jobs a claim has room for, and whoever claims."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import ClaimedJob
from tests.limits.test_limits import Claimer, keyed
from tests.support import drain

RUNS = 1_500


def enqueue(conn: psycopg.Connection, backlog: int, tenants: Sequence[str], **more: Any) -> None:
    """So many jobs for each tenant; quickly, as SQL does it."""
    conn.execute(
        "insert into pgqueue.jobs (task, args, limit_key, priority)"
        " select 't', jsonb_build_object('key', k), 't:' || k, %s"
        " from unnest(%s::text[]) k, generate_series(1, %s)",
        (more.get("priority", 0), list(tenants), backlog),
    )
    conn.execute("analyze pgqueue.jobs")


def key_of(job: ClaimedJob) -> str:
    return job.args.split('"')[3]


def runs(claimers: Sequence[Claimer], room: Any, count: int = RUNS) -> list[str]:
    """Jobs that end as soon as they are claimed: the keys in order."""
    order: list[str] = []
    chance = random.Random(1)
    while len(order) < count:
        claimer = chance.choice(claimers)
        jobs = claimer.claim(room(chance))
        order += [key_of(job) for job in jobs]
        claimer.complete(jobs)
    return order[:count]


ROOMS = {
    "one at a time": lambda chance: 1,
    "four": lambda chance: 4,
    "as it comes": lambda chance: chance.randint(1, 40),
    "a hundred": lambda chance: 100,
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("weights", [{}, {"big": 10}, {"big": 3, "s4": 2}], ids=str)
def test_shares_are_as_the_weights(
    app: App, conn: psycopg.Connection, weights: dict[str, int], room: str
) -> None:
    tenants = ["big", *(f"s{n}" for n in range(1, 6))]
    keyed(app, fair_by="key", **({"weights": weights} if weights else {}))
    claimers = [Claimer(app, conn) for _ in range(3)]
    enqueue(conn, RUNS, tenants)
    order = runs(claimers, ROOMS[room])
    parts = {name: weights.get(name, 1) for name in tenants}
    whole, shares = sum(parts.values()), Counter(order)
    for name, part in parts.items():
        assert shares[name] / RUNS == pytest.approx(part / whole, rel=0.05), shares
    # Nobody waits longer than a round.
    for name, part in parts.items():
        places = [-1, *(at for at, key in enumerate(order) if key == name)]
        longest = max(after - before for before, after in pairwise(places))
        assert longest <= whole - part + 1, name


@pytest.mark.parametrize("room", [1, 3])
def test_workers_that_leave_after_a_few_jobs_go_on_where_others_were(
    app: App, conn: psycopg.Connection, room: int
) -> None:
    tenants = [chr(ord("a") + n) for n in range(26)]
    keyed(app, fair_by="key")
    enqueue(conn, 10, tenants)
    order: list[str] = []
    while len(order) < 52:
        new = Claimer(app, conn)
        jobs = new.claim(room)
        new.complete(jobs)
        order += [key_of(job) for job in jobs]
    assert Counter(order[:26]) == Counter(order[26:52]) == dict.fromkeys(tenants, 1)


async def test_real_workers_that_end_after_five_jobs(app: App, conn: psycopg.Connection) -> None:
    tenants = [chr(ord("a") + n) for n in range(26)]
    ran: list[str] = []

    @app.task(name="t", fair_by="key")
    async def t(key: str) -> None:
        ran.append(key)

    enqueue(conn, 4, tenants)
    while len(ran) < 52:
        await drain(app, concurrency=1, max_jobs=5)
    assert set(Counter(ran[:52]).values()) <= {1, 2, 3}
    assert set(ran[:26]) == set(tenants)


def test_who_has_nothing_to_do_is_passed_over_and_comes_in_again(
    app: App, conn: psycopg.Connection
) -> None:
    keyed(app, fair_by="key", weights={"a": 5})
    claimer = Claimer(app, conn)
    enqueue(conn, 3, ["a"])
    enqueue(conn, 40, ["b", "c"])
    assert "".join(runs([claimer], lambda chance: 1, 9)) == "aaabcbcbc"
    enqueue(conn, 10, ["a"])
    assert "".join(runs([claimer], lambda chance: 1, 12)) == "aaaaabcaaaaa"
    assert "".join(runs([claimer], lambda chance: 7, 7)) == "bcbcbcb"


@pytest.mark.parametrize("weight", [2, 1])
def test_a_turn_is_over_when_its_weight_is_lowered_to_what_it_has_had(
    app: App, conn: psycopg.Connection, weight: int
) -> None:
    keyed(app, fair_by="key", weights={"c": 3})
    claimer = Claimer(app, conn)
    enqueue(conn, 10, ["a", "b", "c", "d"])
    assert "".join(runs([claimer], lambda chance: 1, 4)) == "abcc"
    conn.execute(
        "update pgqueue.tasks set weights = jsonb_build_object('c', %s::integer)", [weight]
    )
    assert "".join(runs([claimer], lambda chance: 3, 3)) == "dab"


def test_more_keys_than_a_claim_looks_at(app: App, conn: psycopg.Connection) -> None:
    """A round goes over all of them before anybody has a second turn."""
    tenants = [f"k{n:04}" for n in range(1200)]
    keyed(app, fair_by="key")
    enqueue(conn, 2, tenants)
    order = runs([Claimer(app, conn)], lambda chance: 900, 2400)
    assert len(order) == 2400
    assert max(Counter(order[:1200]).values()) <= 2


@pytest.mark.parametrize("limited", ["task", "queue", "tenants"])
def test_a_low_priority_gets_its_turn_under_limits(
    app: App, conn: psycopg.Connection, limited: str
) -> None:
    """Every sixteenth claim begins with the lowest."""
    if limited == "queue":
        app.queue("default", limit=1)
    elif limited == "task":
        keyed(app, limit=1)
    else:
        keyed(app, fair_by="key")
    claimer = Claimer(app, conn)
    key = {"queue": None, "task": "t:*", "tenants": "t:a"}[limited]

    def add(name: str, priority: int, count: int) -> None:
        conn.execute(
            "insert into pgqueue.jobs (task, args, limit_key, priority)"
            " select 't', jsonb_build_object('key', %s::text), %s, %s from generate_series(1, %s)",
            (name, key, priority, count),
        )

    add("low", -5, 1)
    add("middle", 0, 1)
    order: list[str] = []
    for _ in range(40):
        add("urgent", 9, 2)
        jobs = claimer.claim(1)
        claimer.complete(jobs)
        order += [key_of(job) for job in jobs]
    assert order.index("low") == 15
    assert order.index("middle") == 31
