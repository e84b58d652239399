"""A transaction of an async handler that can be ended at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg


@asynccontextmanager
async def interruptible(connection: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """A transaction that a handler's timeout or a stopping worker ends at once.

    Its connection ends with it: the statement in hand may never be answered, and asyncpg's
    ROLLBACK would wait for that answer.
    """
    transaction = connection.transaction()
    try:
        await transaction.start()
        try:
            yield
        except asyncio.CancelledError:
            raise
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()
    except asyncio.CancelledError:
        connection.terminate()
        raise
