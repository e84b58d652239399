"""Draws one chart from JSON on standard input, in an environment with matplotlib: ``charts.py OUT.svg``.

Input: {"title", "unit", "bars": [[label, value, low, high], ...]}. On a logarithmic axis: factors are what is compared.
"""

from __future__ import annotations

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "pgqueue"  # the same figures give the same file

import matplotlib.pyplot as plt  # noqa: E402


def main() -> None:
    given = json.load(sys.stdin)
    bars = given["bars"]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.32 * len(bars)), layout="constrained")
    colours = ["#336791" if label.startswith("pgqueue ") else "#b0b8c0" for label, *_ in bars]
    values = [value for _, value, _, _ in bars]
    spread = [
        [value - low for _, value, low, _ in bars],
        [high - value for _, value, _, high in bars],
    ]
    drawn = axes.barh(
        [label for label, *_ in bars], values, xerr=spread, color=colours, ecolor="#555"
    )
    axes.bar_label(
        drawn,
        labels=[f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values],
        padding=4,
    )
    axes.set_xscale("log")
    axes.set_xlim(right=max(values) * 3)
    axes.invert_yaxis()
    axes.set_title(f"{given['title']}, {given['unit']}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
