"""Measured figures as JSON: each scenario's last run, whichever invocation made it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement, from_json

FOLDER = Path(__file__).parent / "results"
PUBLISHED = Path(__file__).parents[1] / "docs" / "benchmarks"


def save(
    scenario: str, about: dict[str, Any], measured: Iterable[Measurement], seconds: float
) -> None:
    """Keep a scenario's figures beside those of the others of its scale: a trial replaces no full run."""
    folder = FOLDER / about["scale"]
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "scenario": scenario,
        "seconds": round(seconds, 1),
        "about": about,
        "measurements": [m.as_json() for m in measured],
    }
    (folder / f"{scenario}.json").write_text(json.dumps(result, indent=1) + "\n")


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder by scenario, their measurements decoded."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        raw = json.loads(path.read_text())
        raw["measurements"] = [from_json(m) for m in raw["measurements"]]
        found[raw["scenario"]] = raw
    return found
