"""Claims whose answers were lost. Pure."""

from __future__ import annotations

from uuid import UUID

AGAIN_AFTER = 5.0


class Unanswered:
    """Remembers which claims to release, and when: a claim may commit after its first release.

    Each is released now and every 5 s until its lease has passed and rescuing takes over. Times
    are monotonic seconds.
    """

    def __init__(self) -> None:
        self._claims: dict[UUID, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, claim_id: UUID, *, until: float) -> None:
        """A claim was sent and not answered; its lease ends at ``until``."""
        self._claims[claim_id] = (until, 0.0)

    def due(self, now: float) -> list[UUID]:
        """The claims to release now."""
        return [claim_id for claim_id, (_, again_at) in self._claims.items() if now >= again_at]

    def released(self, claim_id: UUID, now: float) -> None:
        """A release was carried out."""
        until, _ = self._claims[claim_id]
        if now > until:
            del self._claims[claim_id]
        else:
            self._claims[claim_id] = (until, now + AGAIN_AFTER)
