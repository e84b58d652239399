"""Which job each claim under limits takes, by the rules of ``docs/rules/limits.md``: a Hypothesis state machine.

What waits and what runs is read from the table; limits, keys, turns and order are the model's own. Time is moved by aging the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgqueue.job import NewJob
from pgqueue.limits import Limits
from pgqueue.operations import claims, enqueue, limits, maintenance, schedules
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome
from tests.model.machine import BACKOFF, LEASE, STEP, perform, pick

QUEUE = "limited"
KEYED: dict[str, Any] = {"keyed": True, "per": "k", "per_default": "a"}
CODE: dict[str, dict[str, dict[str, Any]]] = {
    "first": {
        "shared": KEYED | {"max_running": 2, "weights": {"a": 3, "b": 2}},
        "strict": KEYED | {"ordered": "strict"},
        "skip": KEYED | {"ordered": "skip"},
        "rated": KEYED | {"rate": 0.0001, "burst": 3},
        "by_hand": {},
    },
    "second": {
        "shared": KEYED | {"max_running": 3, "weights": {"b": 3, "c": 2}},
        "strict": KEYED | {"ordered": "strict"},
        "skip": KEYED | {"ordered": "skip"},
        "rated": KEYED | {"rate": 0.0001, "burst": 3},
        "by_hand": {},
    },
    "third": {
        "shared": KEYED | {"weights": {"a": 2, "c": 3}},
        "strict": KEYED | {"ordered": "strict"},
        "skip": KEYED | {"ordered": "skip"},
        "rated": KEYED | {"rate": 0.0001, "burst": 3},
        "by_hand": {},
    },
}
versions = st.sampled_from(sorted(CODE))
FEW = st.lists(st.sampled_from(sorted(CODE["first"])), min_size=1, max_size=2, unique=True)
tenants = st.sampled_from(["a", "b", "c", "d", None])
rarely = st.sampled_from([False, False, False, True])
BURST = st.lists(st.tuples(tenants, st.integers(-1, 1), rarely), min_size=3, max_size=12)
ENDS = st.sampled_from(["done", "done", "retry", "snooze", "crash"])
RUNS = st.lists(st.tuples(pick, ENDS), max_size=8)
ROOMS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
WAYS = st.sampled_from(["call", "sql", "schedule", "insert"])
CHANGES = ["start", "go", "look", "limit", "queue", "pause"]


class Seen(NamedTuple):
    """A job of the table."""

    id: int
    task: str
    tenant: str | None
    status: str
    priority: int
    due: bool
    key: str | None


class Limiting(RuleBasedStateMachine):
    """Rules are what applications, workers, people and clocks do."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.conn = conn
        for table in (
            "jobs",
            "attempts",
            "queues",
            "tasks",
            "turns",
            "buckets",
            "workers",
            "schedules",
        ):
            conn.execute(f"delete from pgqueue.{table}".encode())
        self.now: dict[str, dict[str, Any]] = {}
        self.declared: dict[str, dict[str, Any]] = {}
        self.workers: list[tuple[UUID, str]] = []
        self.queue_limit: int | None = None
        self.paused: set[str] = set()
        self.claims: list[tuple[int, UUID]] = []
        self.starts: Counter[str] = Counter()
        self.turn = ("", 0)
        self.count = 0

    def seen(self) -> list[Seen]:
        """The jobs that wait or run, in the order in which those of a key start."""
        return [
            Seen(*row)
            for row in self.conn.execute(
                "select id, task, args ->> 'k', status, priority, run_at <= clock_timestamp(), limit_key"
                " from pgqueue.jobs where status in ('pending', 'running')"
                " order by priority desc, run_at, id"
            )
        ]

    def setting(self, task: str, name: str) -> Any:
        return self.now.get(task, {}).get(name)

    def own_key(self, job: Seen) -> str | None:
        if not self.setting(job.task, "keyed"):
            return None
        if not self.setting(job.task, "per"):
            return f"{job.task}:*"
        return f"{job.task}:{job.tenant or self.setting(job.task, 'per_default')}"

    # What limits are in force.

    @initialize(version=versions, tasks=FEW)
    def begins(self, version: str, tasks: list[str]) -> None:
        self.tasks = tasks  # few: so that their keys are at their limits
        self.starts_a_worker(version)

    @rule(
        what=st.sampled_from(CHANGES), version=versions, which=pick, clean=st.booleans(),
        task=st.sampled_from(["shared", "by_hand"]), most=st.none() | st.integers(1, 4),
        paused=st.sampled_from(["shared", "strict", QUEUE]),
    )  # fmt: skip
    def something_changes(
        self,
        what: str,
        version: str,
        which: int,
        clean: bool,
        task: str,
        most: int | None,
        paused: str,
    ) -> None:
        if what == "pause":
            self.is_paused_or_resumed(paused)
        elif what == "limit":
            self.is_limited_by_hand(task, most)
        elif what == "queue":
            self.the_queue_is_limited_by_hand(most)
        elif what == "start" or not self.workers:
            self.starts_a_worker(version)
        elif what == "go":
            self.a_worker_goes(which, clean)
        else:
            self.a_worker_looks_again(which)

    def starts_a_worker(self, version: str) -> None:
        row = json.dumps({"task": {n: s for n, s in CODE[version].items() if s}, "queue": {}})
        worker = uuid4()
        self.conn.execute(
            "insert into pgqueue.workers (id, host, pid, version, limits, live_until)"
            " values (%s, 'h', 1, '1', %s, clock_timestamp() + interval '1 day')",
            (worker, row),
        )
        self.workers.append((worker, version))
        self.declares(version, starting=True)

    def a_worker_goes(self, which: int, clean: bool) -> None:
        worker, _ = self.workers.pop(which % len(self.workers))
        if clean:
            self.conn.execute("delete from pgqueue.workers where id = %s", (worker,))
        else:
            self.conn.execute(
                "update pgqueue.workers set live_until = 'epoch' where id = %s", (worker,)
            )

    def a_worker_looks_again(self, which: int) -> None:
        self.declares(self.workers[which % len(self.workers)][1], starting=False)

    def declares(self, version: str, *, starting: bool) -> None:
        code = CODE[version]
        perform(self.conn, limits.declare(limits.Declared(code, {}), starting=starting, patience=0))
        live = [CODE[v] for _, v in self.workers]
        for task, settings in code.items():
            declared, now = self.declared.setdefault(task, {}), self.now.setdefault(task, {})
            changed = False
            for name in {*settings, *declared}:
                new, old = settings.get(name), declared.get(name)
                held = any(other[task].get(name) == old for other in live)
                if new != old and (old is None or (starting and new is not None) or not held):
                    now[name] = declared[name] = new
                    changed = True
            if changed and task == "by_hand":
                raise AssertionError("it declares nothing")

    def is_limited_by_hand(self, task: str, most: int | None) -> None:
        perform(self.conn, limits.put("task", task, Limits(most)))
        now = self.now.setdefault(task, {})
        now |= {"max_running": most, "rate": None, "burst": None}
        now["keyed"] = most is not None or bool(self.declared.get(task, {}).get("keyed"))

    def the_queue_is_limited_by_hand(self, most: int | None) -> None:
        perform(self.conn, limits.put("queue", QUEUE, Limits(most)))
        self.queue_limit = most

    def is_paused_or_resumed(self, what: str) -> None:
        again = what in self.paused
        if what == QUEUE:
            perform(self.conn, maintenance.resume(what) if again else maintenance.pause(what))  # type: ignore[arg-type]
        else:
            perform(
                self.conn, maintenance.resume_task(what) if again else maintenance.pause_task(what)
            )  # type: ignore[arg-type]
        self.paused ^= {what}

    # Ways in.

    # One rule for both: a claim that finds nothing shows nothing.
    @rule(way=WAYS, which=pick, burst=BURST, rooms=ROOMS, ends=RUNS)
    def jobs_come_and_go(
        self, way: str, which: int, burst: list[tuple[str | None, int, bool]],
        rooms: list[int], ends: list[tuple[int, str]],
    ) -> None:  # fmt: skip
        self.jobs_come(way, which, burst)
        self.keys_are_given()
        self.workers_go_on(rooms, ends)

    def jobs_come(self, way: str, which: int, burst: list[tuple[str | None, int, bool]]) -> None:
        task = self.tasks[which % len(self.tasks)]
        for tenant, priority, delayed in burst:
            args = json.dumps({} if tenant is None else {"k": tenant})
            job = Seen(0, task, tenant, "pending", priority, True, None)
            key = None if task == "by_hand" else (self.own_key(job) or ":").split(":")[1]
            if way == "call":
                new = NewJob(
                    task,
                    args,
                    QUEUE,
                    priority,
                    50,
                    BACKOFF,
                    delay=1000.0 if delayed else None,
                    limit_key=key,
                )
                perform(self.conn, enqueue.enqueue([new]))
            elif way == "sql":
                self.conn.execute(
                    "select pgqueue.enqueue(%s, %s, queue => %s, priority => %s::smallint, max_retries => 50,"
                    " delay => make_interval(secs => %s))",
                    (task, args, QUEUE, priority, 1000 if delayed else 0),
                )
            elif way == "schedule":
                self.conn.execute(
                    "insert into pgqueue.schedules (name, expression, task, args, queue, priority, max_retries)"
                    " values ('s', '0 0 1 1 *', %s, %s, %s, %s, 50) on conflict (name) do update"
                    " set task = excluded.task, args = excluded.args, priority = excluded.priority",
                    (task, args, QUEUE, priority),
                )
                perform(self.conn, schedules.run("s"))
            else:
                self.conn.execute(
                    "insert into pgqueue.jobs (task, args, queue, priority, max_retries)"
                    " values (%s, %s, %s, %s, 50)",
                    (task, args, QUEUE, priority),
                )

    def keys_are_given(self) -> None:
        perform(self.conn, limits.key_jobs())
        for job in self.seen():
            assert job.status == "running" or job.key is not None or self.own_key(job) is None

    # What a claim takes.

    def startable(self, room: int) -> dict[str, list[Seen]]:
        """The jobs that may start now of each key, in order, as many as there is room for."""
        jobs = self.seen()
        running = Counter(j.key or self.own_key(j) for j in jobs if j.status == "running")
        waiting: dict[str, list[Seen]] = {}
        for job in jobs:
            if job.status == "pending" and job.key is not None and job.task not in self.paused:
                waiting.setdefault(job.key, []).append(job)
        found = {}
        for key, of_key in sorted(waiting.items()):
            task = of_key[0].task
            due = [j for j in of_key if j.due]
            most = self.setting(task, "max_running")
            allowed = room if most is None else min(room, most - running[key])
            if self.setting(task, "rate") is not None:
                allowed = min(allowed, self.setting(task, "burst") - self.starts[key])
            ordered = self.setting(task, "ordered")
            if ordered is not None:
                allowed = min(allowed, 1 - running[key])
                first = min(
                    of_key if ordered == "strict" else due, key=lambda j: j.id, default=None
                )
                due = [first] if first is not None and first.due else []
            if due and allowed > 0:
                found[key] = due
                self.allowed[key] = allowed
        return found

    def weight(self, key: str) -> int:
        task, tenant = key.split(":")
        if self.setting(task, "ordered") is not None:
            return 1
        return int((self.setting(task, "weights") or {}).get(tenant, 1))

    def in_turn(
        self, startable: dict[str, list[Seen]], room: int
    ) -> tuple[list[str], tuple[str, int]]:
        """The keys of the jobs that start, and where the turn is then."""
        left = {key: min(len(jobs), self.allowed[key]) for key, jobs in startable.items()}
        (at, used), order = self.turn, []
        while len(order) < room and any(left.values()):
            if not (left.get(at) and used and used < self.weight(at)):
                there = [key for key, n in left.items() if n]
                at, used = next((key for key in there if key > at), there[0]), 0
            left[at] -= 1
            used += 1
            order.append(at)
        if used and at in left and used >= self.weight(at):
            used = 0
        return order, (at, used)

    @rule(rooms=ROOMS, ends=RUNS)
    def workers_go_on(self, rooms: list[int], ends: list[tuple[int, str]]) -> None:
        for room in rooms:
            self.a_worker_claims(room)
        for which, how in ends[: len(self.claims)]:
            self.a_run_ends(which, how)

    def a_worker_claims(self, room: int) -> None:
        jobs, asked = self.seen(), room
        if self.queue_limit is not None:
            room = min(room, self.queue_limit - sum(j.status == "running" for j in jobs))
        room = 0 if QUEUE in self.paused else max(room, 0)
        self.allowed: dict[str, int] = {}
        startable = self.startable(room)
        plain = [
            j for j in jobs
            if self.queue_limit is not None and j.status == "pending" and j.due
            and j.key is None and self.own_key(j) is None and j.task not in self.paused
        ]  # fmt: skip
        plain_first = min(room, len(plain))
        claim = uuid4()
        got = perform(
            self.conn,
            limits.claim(QUEUE, limit=asked, claim_id=claim, worker_id=uuid4(), lease=LEASE),
        ).jobs
        by_id = {j.id: j for j in jobs}
        taken = [by_id[j.id] for j in got]
        keys = [j.key for j in taken]
        lowest = self.count % 16 == 15
        ways = []
        for n in {0, plain_first}:
            order, turn = self.in_turn(startable, room - n)
            rest = [None] * min(room - len(order), len(plain))
            ways.append(
                ([*[None] * n, *order] if n else [*order, *rest], turn if order else self.turn)
            )
        fitting = [turn for order, turn in ways if order == keys]
        assert fitting, (keys, ways, self.turn)
        for key in {*keys}:
            of_key = [j for j in taken if j.key == key]
            might = plain if key is None else startable[key]
            if lowest and (key is None or self.setting(of_key[0].task, "ordered") is None):
                assert of_key[0].priority == min(j.priority for j in might)
            else:
                assert [j.id for j in of_key] == [j.id for j in might[: len(of_key)]]
        self.turn = fitting[0]
        self.count += bool(got)
        self.claims.extend((job.id, claim) for job in got)
        self.starts.update(key for key in keys if key is not None)

    # How runs end.

    def a_run_ends(self, which: int, how: Any) -> None:
        job_id, claim = self.claims.pop(which % len(self.claims))
        if how == "done":
            perform(
                self.conn, claims.complete([Finished(job_id, claim, SUCCEEDED, 0.1)], delete=True)
            )
        elif how == "crash":
            self.conn.execute(
                "update pgqueue.jobs set lease_expires_at = 'epoch' where id = %s", (job_id,)
            )
            perform(self.conn, maintenance.rescue(max_crashes=1000))
        else:
            outcome = Outcome(how, 1000.0 if how == "snooze" else None, "E", "why")
            perform(self.conn, claims.fail([Finished(job_id, claim, outcome, 0.1)]))

    @rule()
    def time_passes(self) -> None:
        self.conn.execute(f"update pgqueue.jobs set run_at = run_at - interval '{STEP} s'".encode())

    @invariant()
    def settings_are_as_declared_or_set(self) -> None:
        rows = self.conn.execute(
            "select name, max_running, rate, ordered, weights, keyed from pgqueue.tasks"
        )
        for name, most, rate, ordered, weights, keyed in rows:
            got = {"max_running": most, "rate": rate, "ordered": ordered, "weights": weights}
            assert got == {n: self.setting(name, n) for n in got}, name
            assert keyed == bool(self.setting(name, "keyed")), name
