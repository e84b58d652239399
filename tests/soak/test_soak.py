"""The soak for some seconds: counts only, for a trend of memory or time needs minutes."""

from __future__ import annotations

from tests.soak.run import soak
from tests.soak.samples import Sample, complaints, growth, slope


def test_a_short_soak_stays_within_its_limits(dsn: str) -> None:
    samples = soak(dsn, seconds=15, rate=200)
    assert complaints(samples, only_counts=True) == []
    assert samples[-1].finished > samples[0].finished


def test_a_leak_is_seen() -> None:
    leaking = [Sample(i, 80 + i / 10, 6, 30, 40, 20, 3.0, i) for i in range(120)]
    assert growth(leaking)["rss_mb"] > 5
    assert [line.split()[0] for line in complaints(leaking, only_counts=False)] == ["rss_mb"]
    crowded = [Sample(i, 80, 6, 30 + i, 40, 20, 3.0, i) for i in range(120)]
    assert any("threads reached" in line for line in complaints(crowded, only_counts=True))


def test_an_outlier_is_no_trend() -> None:
    points = [(float(i), 1.0) for i in range(20)]
    points[7] = (7.0, 500.0)
    assert slope(points) == 0
