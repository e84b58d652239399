"""An event that a signal handler may set."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from contextlib import suppress


class Wakeup:
    """Wakes the main thread; a byte in a socket (https://cr.yp.to/docs/selfpipe.html).

    A handler runs in the main thread, perhaps within ``wait()``. There ``threading.Event.set()`` would
    wait for the lock that its own ``wait()`` holds, for ever.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        for each in (self._ours, self._theirs):
            each.setblocking(False)

    def set(self) -> None:
        """End the wait in hand, or else the next one; from handlers and threads."""
        with suppress(OSError):  # so much is set already, or nobody waits any more
            self._theirs.send(b"\0")

    def wait(self, seconds: float, also: Sequence[int] = ()) -> None:
        """Return when set, when one of these descriptors can be read, or after so many seconds."""
        select.select([self._ours.fileno(), *also], [], [], seconds)
        with suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        """Release what it holds."""
        self._ours.close()
        self._theirs.close()
