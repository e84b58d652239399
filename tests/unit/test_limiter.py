"""When an enqueue notifies."""

from __future__ import annotations

from pgqueue.limiter import NotifyLimiter


def notified(times: list[float], queue: str = "q") -> list[float]:
    limiter = NotifyLimiter()
    return [at for at in times if limiter.allows({queue}, at)]


def test_sparse_jobs_all_notify() -> None:
    times = [n * 0.05 for n in range(20)]
    assert notified(times) == times


def test_a_burst_notifies_at_its_start_and_ten_times_a_second() -> None:
    times = [n * 0.01 for n in range(100)]
    assert notified(times)[0] == 0.0
    assert 9 <= len(notified(times)) <= 10


def test_one_queue_does_not_silence_another() -> None:
    limiter = NotifyLimiter()
    assert limiter.allows({"a"}, 0.0)
    assert limiter.allows({"a", "b"}, 0.001)
    assert not limiter.allows({"a", "b"}, 0.002)
