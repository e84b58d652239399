"""What is to be tried again, each thing later and later."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from pgqueue.worker import clock

Key = TypeVar("Key", bound=Hashable)


class Later(Generic[Key]):
    """Keys, and when each is to be tried again.

    Args:
        first: seconds until the second try of a key; each wait is twice the one before.
        longest: seconds of the longest wait.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._keys: dict[Key, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def add(self, keys: Iterable[Key]) -> None:
        """These were tried in vain."""
        now = clock.seconds()
        for key in keys:
            tries, _ = self._keys.get(key, (0, 0.0))
            wait = min(self._first * 2.0 ** min(tries, 20), self._longest)
            self._keys[key] = (tries + 1, now + wait)

    def drop(self, keys: Iterable[Key]) -> None:
        """These are done, or gone."""
        for key in keys:
            self._keys.pop(key, None)

    def due(self) -> list[Key]:
        """Those to be tried now; each stays until it is dropped."""
        now = clock.seconds()
        return [key for key, (_, due) in self._keys.items() if due <= now]

    def resting(self) -> list[Key]:
        """Those to be left alone now; what has been due for as long as the longest wait is forgotten."""
        now = clock.seconds()
        self.drop([key for key, (_, due) in self._keys.items() if due < now - self._longest])
        return [key for key, (_, due) in self._keys.items() if due > now]

    def wait(self) -> float | None:
        """Seconds until the next is due; None if there is none."""
        if not self._keys:
            return None
        return max(min(due for _, due in self._keys.values()) - clock.seconds(), 0.0)
