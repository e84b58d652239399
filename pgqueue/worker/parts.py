"""What the database refuses to change is narrowed down to its row; the rows beside it go on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pgqueue.operations import Operation
from pgqueue.worker.database import TOO_LONG, Database, StatementRefused
from pgqueue.worker.later import Later
from pgqueue.worker.outage import Seldom
from pgqueue.worker.verdict import denied

T = TypeVar("T")

LEFT_ALONE = (60.0, 4 * 3600.0)  # seconds, at first and at most
# So many in a row, and none that was not refused: it is not the rows.
MOST_IN_A_ROW = 20


async def in_parts(
    items: list[T],
    act: Callable[[Sequence[T]], Awaitable[object]],
    refused: Callable[[T, StatementRefused], Awaitable[object]],
    *,
    divide: Callable[[StatementRefused], bool] = lambda error: True,
) -> None:
    """Act on all items and take them off the list: at once, or, refused, on halves, down to one.

    Args:
        refused: called with an item that was refused by itself.
        divide: may a part be good where the whole was refused? If not, the refusal is raised.
    """
    size = len(items)
    while items:
        some = items[:size]
        try:
            await act(some)
        except StatementRefused as error:
            if denied(error.state) or not divide(error):
                raise
            if len(some) > 1:
                size = (len(some) + 1) // 2
                continue
            await refused(some[0], error)
        del items[: len(some)]
        size *= 2


def may_divide(error: StatementRefused) -> bool:
    """May other rows be changed, where these were refused? A statement that took too long is no matter of a row."""
    return not denied(error.state) and error.state != TOO_LONG


class Refusals:
    """Rows that the database refuses to change: said, and left alone for a while, later and later.

    Args:
        what: is refused, for the log, with the id of the row: "job %d cannot be pruned".
    """

    def __init__(self, what: str, log: logging.Logger) -> None:
        self._what, self._log = what, log
        self._later, self._seldom = Later[int](*LEFT_ALONE), Seldom()

    def resting(self) -> list[int]:
        """Those to be left alone now."""
        return self._later.resting()

    def leave(self, row_id: int, error: StatementRefused) -> None:
        """This one was refused by itself."""
        self._later.add([row_id])
        if self._seldom(error.state):
            self._log.error(self._what + ", so it is left alone for a while: %s", row_id, error)

    async def run(
        self,
        database: Database,
        make: Callable[..., Operation[T]],
        look: Callable[..., Operation[list[int]]],
    ) -> list[T]:
        """Run an operation that chooses its rows; its answer, or those of its parts.

        Args:
            make: the operation, given ``without`` and ``only``.
            look: which rows it would choose, given ``without``.

        Raises:
            DatabaseAway: the database did not answer.
            StatementRefused: it took too long, or is refused whatever row it is about.
        """
        without = self.resting()
        try:
            return [await database.run(make(without=without))]
        except StatementRefused as error:
            if not may_divide(error):
                raise
        done: list[T] = []
        alone = 0

        async def act(some: Sequence[int]) -> None:
            done.append(await database.run(make(only=some)))

        async def refused(row_id: int, error: StatementRefused) -> None:
            nonlocal alone
            alone += 1
            self.leave(row_id, error)
            if alone >= MOST_IN_A_ROW and not done:
                raise error

        await in_parts(await database.run(look(without=without)), act, refused)
        return done
