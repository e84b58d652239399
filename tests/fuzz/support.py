"""What the fuzz tests share: how many examples, and values that are likely to break something."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

HOSTILE = [
    "", " ", "\0", "\ud800", "'", '"', "\\", ";--", "$1", ":a", "%s", "{}", "../..", "\n", "\x1b[31m",
    "[red]", "$$", "'); drop table pgqueue.jobs; --", "\u202e", "é" * 70, "x" * 300, "1e999", "NaN",
    "infinity", "-1", "9" * 30, "𝟙", "١", "null",
]  # fmt: skip
text = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=80)
# PostgreSQL can store it.
storable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 1e300, 5e-324, 10**400])
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def fuzz(examples: int) -> settings:
    """``examples`` in ``make test``, TESTS_EXAMPLES in ``make fuzz``."""
    return settings(
        max_examples=int(os.environ.get("TESTS_EXAMPLES", examples)),
        deadline=None,
        derandomize="TESTS_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
