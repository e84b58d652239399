"""The accounts of the kill harness: each defect planted in a history must be found."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from tests.chaos import ledger
from tests.chaos.__main__ import prepare
from tests.chaos.faults import Fault
from tests.chaos.ledger import Faults, History, Outcome, histories, judge, ran_again
from tests.chaos.producers import Batch
from tests.chaos.recovery import recovery, throughput
from tests.chaos.report import Tally, failed, report, table


def outcome(claim: str, at: float, became: str, *, lease_end: float = 100.0) -> Outcome:
    return Outcome(claim, at, "running", became, f"worker of {claim}", lease_end)


def good(task: str = "plain") -> History:
    """Failed once, then succeeded."""
    return History(
        1, "committed", task, "succeeded", effects=["b"] * (task == "effect"),
        starts={"a": 1.0, "b": 4.0}, ends={"a": 2.0, "b": 5.0}, how={"a": "failed", "b": "done"},
        outcomes=[outcome("a", 3.0, "pending"), outcome("b", 6.0, "succeeded")],
    )  # fmt: skip


def lapsed_thrice() -> History:
    """Its workers were killed three times."""
    lost = [outcome(c, at, s, lease_end=at - 0.1)
            for c, at, s in (("a", 3, "pending"), ("b", 6, "pending"), ("c", 9, "dead"))]  # fmt: skip
    return History(1, "committed", "plain", "dead", starts={"a": 1, "b": 4, "c": 7}, outcomes=lost)


def changed(history: History, **changes: object) -> History:
    for name, value in changes.items():
        setattr(history, name, value)
    return history


UNTOUCHED = History(1, "committed")
# The network was broken all the time.
STRUCK = Faults([Fault("reset", "", 0.0, began=0.0, over=20.0)], lease=5.0)


def calm(task: str = "flaky", **changes: object) -> History:
    """One whose failure belongs to its task."""
    return changed(good(task), **changes)


@pytest.mark.parametrize(
    ("finding", "history"),
    [
        ("lost", UNTOUCHED),
        ("lost", changed(good(), status="pending")),
        ("lost", changed(good(), status="running", fate="unknown")),
        ("unrun", changed(good(), starts={}, ends={})),
        ("recorded_twice", changed(good(), outcomes=[
            outcome("a", 3.0, "succeeded"), outcome("b", 6.0, "succeeded")])),
        ("recorded_twice", changed(good(), outcomes=[
            outcome("a", 3.0, "succeeded"), Outcome(None, 7.0, "succeeded", "dead")])),
        ("effects_twice", changed(good("effect"), effects=["a", "b"])),
        ("effects_missing", changed(good("effect"), effects=[])),
        ("effects_missing", changed(good("effect"), effects=["a"])),
        # A zombie's completion was taken for that of the run in hand.
        ("unrun", changed(good(), ends={"a": 2.0})),
        ("unrun", changed(good(), ends={"a": 2.0, "b": 6.5})),
        ("rolled_back_ran", changed(good(), fate="rolled back")),
        ("rolled_back_ran", History(1, "rolled back", "plain", "pending")),
        ("rolled_back_ran", History(1, "unknown", starts={"a": 1.0})),
        ("overlapped", changed(good(), ends={"a": 4.5, "b": 5.0})),
        ("overlapped", changed(good(), ends={"b": 5.0}, outcomes=[outcome("a", 4.5, "pending")])),
        ("overlapped", changed(good(), ends={"b": 5.0}, outcomes=[])),
        # The lease had lapsed, but the job was started again before it was taken back.
        ("overlapped", changed(good(), ends={"a": 9.0, "b": 5.0},
                               outcomes=[outcome("a", 4.5, "pending", lease_end=2.0)])),
        # Started after it was taken back, and its lease had not lapsed.
        ("overlapped", changed(good(), starts={"a": 4.5, "b": 4.0}, ends={"a": 9.0, "b": 5.0})),
        ("dead_without_cause", changed(lapsed_thrice(), outcomes=lapsed_thrice().outcomes[1:])),
        ("needless_runs", good()),
        ("needless_runs", calm(how={"a": "stopped", "b": "done"})),
        ("needless_runs", calm("durable", effects=["b"])),
        ("needless_runs", calm(ends={"b": 5.0}, how={"b": "done"})),
        ("false_crashes", lapsed_thrice()),
        ("wrong_outcomes", calm(how={"a": "done", "b": "done"})),
        ("wrong_outcomes", calm(outcomes=[outcome("a", 3.0, "pending"), outcome("b", 6.0, "cancelled")])),
        ("late_outcomes", calm(outcomes=[outcome("a", 3.0, "pending"), outcome("b", 10.5, "succeeded")])),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(finding: str, history: History) -> None:
    assert finding in judge(history)


@pytest.mark.parametrize(
    "history",
    [
        good(), good("effect"), lapsed_thrice(), History(1, "rolled back"), History(1, "unknown"),
        changed(good(), fate="unknown"),
        # Frozen past its lease, it ends after the job has run elsewhere.
        changed(good(), ends={"a": 9.0, "b": 5.0}, outcomes=[
            outcome("a", 3.0, "pending", lease_end=2.9), outcome("b", 6.0, "succeeded")]),
        # Frozen between its claim and its start, it starts while the job runs elsewhere.
        changed(good(), starts={"a": 4.5, "b": 4.0}, ends={"a": 9.0, "b": 5.0}, outcomes=[
            outcome("a", 3.0, "pending", lease_end=2.9), outcome("b", 6.0, "succeeded")]),
        # Its last line was lost: the outcome says that it is over.
        changed(good(), ends={"b": 5.0}),
    ],
)  # fmt: skip
def test_what_may_happen_is_not_a_finding(history: History) -> None:
    assert judge(history, STRUCK) == set()


@pytest.mark.parametrize(
    "history",
    [
        calm(),
        calm("durable", effects=["a"], how={"a": "stopped", "b": "done"}),
        # Given back before it ran.
        calm(starts={"b": 4.0}, ends={"b": 5.0}, how={"b": "done"}),
        # Stopped by an operator, who put it back.
        calm(outcomes=[outcome("a", 3.0, "cancelled"), Outcome(None, 3.5, "cancelled", "pending"),
                       outcome("b", 6.0, "succeeded")], how={"a": "stopped", "b": "done"}),
        calm(status="cancelled", starts={"a": 1.0}, ends={}, how={"a": "unsure"},
             outcomes=[outcome("a", 3.0, "cancelled")]),
    ],
)  # fmt: skip
def test_what_may_happen_though_nothing_struck(history: History) -> None:
    assert judge(history) == set()


def test_a_fault_explains_what_it_struck() -> None:
    def found(*struck: Fault) -> set[str]:
        return judge(lapsed_thrice(), Faults(struck, lease=2.0))

    by_kill = [Fault("kill", "", at, (f"worker of {claim}",), began=at, over=at)
               for claim, at in (("a", 2.0), ("b", 5.0), ("c", 8.0))]  # fmt: skip
    assert found(*by_kill) == set()
    assert found(*by_kill[:2]) == {"false_crashes"}
    assert found(Fault("kill", "", 2.0, ("another",), began=2.0, over=8.0)) == {"false_crashes"}
    assert found(Fault("blackhole", "", 2.0, began=2.0, over=8.0)) == set()
    assert found(Fault("blackhole", "", 20.0, began=20.0, over=21.0)) == {"false_crashes"}


def test_one_defect_fails_the_run() -> None:
    def result(*all_histories: History) -> dict[str, object]:
        return report(
            Tally(all_histories, STRUCK), [], {}, calm=0, ended=0, lease=1, gave_up=[], settings={}
        )

    fine = result(good(), lapsed_thrice(), History(2, "rolled back"))
    assert failed(fine) == []
    assert (fine["enqueued"], fine["finished"], fine["rolled_back"]) == (2, 2, 1)
    wrong = result(good(), UNTOUCHED)
    assert failed(wrong) == ["lost"]
    assert "committed, but not finished" in table(wrong)
    stuck = report(Tally([]), [], {}, calm=0, ended=0, lease=1, gave_up=["it ended"], settings={})
    assert failed(stuck) == ["workers_gave_up"]


def test_histories_hold_every_number_enqueued() -> None:
    batches = [Batch(3, 2, "committed"), Batch(1, 2, "rolled back")]
    row = (4, "job", None, 0.0, None, "pending", "plain", None, None)
    found = list(histories(batches, [row]))
    assert [(h.number, h.fate, h.status) for h in found] == [
        (1, "rolled back", None), (2, "rolled back", None), (3, "committed", None),
        (4, "committed", "pending"),
    ]  # fmt: skip
    assert [judge(h) for h in found] == [set(), set(), {"lost"}, {"lost"}]
    with pytest.raises(ValueError, match="nobody enqueued: 4"):
        list(histories(batches[1:], [row]))


def test_what_the_database_notes_is_read_back(dsn: str) -> None:
    prepare(dsn)
    a, b, worker = (uuid.uuid4() for _ in range(3))
    claim = (
        "update pgqueue.jobs set status = 'running', claim_id = %s, worker_id = %s,"
        " lease_expires_at = clock_timestamp() - interval '1s'"
    )
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("""select pgqueue.enqueue('effect', '{"number": 7}')""")
        for claim_id, start in ((a, 1.0), (b, 3.0)):
            conn.execute(claim, (claim_id, worker))
            conn.execute("insert into chaos.ledger select 7, e, 1, 1, %s, 1, %s"
                         " from unnest(array['start', 'done']) e", (claim_id, start))  # fmt: skip
            conn.execute("insert into chaos.effects values (7, %s)", (claim_id,))
            conn.execute("update pgqueue.jobs set status = %s, claim_id = null, worker_id = null,"
                         " lease_expires_at = null",
                         ("pending" if claim_id == a else "succeeded",))  # fmt: skip
        conn.execute("alter table pgqueue.jobs disable trigger transition")
        conn.execute("update pgqueue.jobs set status = 'dead'")
    [history] = histories([Batch(7, 1, "committed")], ledger.read(dsn))
    assert (history.task, history.status) == ("effect", "dead")
    assert history.effects == [str(a), str(b)]
    assert history.starts == {str(a): 1.0, str(b): 3.0}
    assert [(o.claim, o.was, o.became, o.lapsed) for o in history.outcomes] == [
        (str(a), "running", "pending", True), (str(b), "running", "succeeded", True),
        (None, "succeeded", "dead", False),
    ]  # fmt: skip
    assert judge(history) >= {"effects_twice", "recorded_twice"}


def test_when_the_jobs_of_a_killed_worker_ran_again() -> None:
    again = list(ran_again(changed(lapsed_thrice(), starts={"a": 1.0, "b": 4.0, "c": 7.5})))
    assert again == [("worker of a", 4.0, False), ("worker of b", 7.5, True)]
    # Lost again before it was started, it waited as one on its last chance.
    unstarted = list(ran_again(changed(lapsed_thrice(), starts={"a": 1.0, "c": 7.5})))
    assert unstarted == [("worker of a", 7.5, True), ("worker of b", 7.5, True)]
    faults = [Fault("kill", "", 2.0, ("worker of a",)), Fault("kill", "", 3.0, ("worker of b",))]
    result = report(Tally([lapsed_thrice()]), faults, {}, calm=0, ended=0, lease=1, gave_up=[],
                    settings={})  # fmt: skip
    assert result["killed_jobs_ran_again_s"] == {"count": 1, "median": 2.0, "worst": 2.0}
    assert result["last_chances_ran_again_s"]["count"] == 1


def test_recovery_is_the_first_second_at_95_percent() -> None:
    finished = {tenth: 10 for tenth in range(300) if not 100 <= tenth < 142}
    calm = throughput(finished, 3.0, 10.0)
    assert calm == 100
    assert recovery(finished, 10.0, calm=calm, until=30.0) == pytest.approx(4.2)
    assert recovery(finished, 5.0, calm=calm, until=30.0) == 0
    assert recovery(finished, 10.0, calm=calm, until=14.0) is None
    assert (
        recovery({**finished, **dict.fromkeys(range(142, 300), 9)}, 10.0, calm=calm, until=30.0)
        is None
    )
