"""A TCP proxy before PostgreSQL that breaks the network, or answers in the server's place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self

Mode = Literal["pass", "drop_replies", "blackhole"]


class Proxy:
    """Listens on a free port of 127.0.0.1; ``with Proxy(host, port) as proxy: proxy.port``.

    ``mode`` holds for the connections that are open as well: ``drop_replies`` swallows what the
    server answers, ``blackhole`` everything. ``delay`` is seconds added to each reply. ``refuse``
    closes new connections at once. ``error`` is a SQLSTATE with which the proxy answers every
    statement that it is sent; the server sees none of them.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._to = host, port
        self.mode: Mode = "pass"
        self.delay = 0.0
        self.refuse = False
        self.error: str | None = None
        self.watch: Callable[[bytes], None] = lambda data: None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """Break every open connection with a TCP reset, on both sides."""
        self._run(self._reset())

    def cut(self) -> None:
        """Carry nothing more on the connections that are open now, and tell neither side."""
        for link in list(self._links):
            link.cut = True

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            _abort(writer)
            return
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.carry(*await asyncio.open_connection(self._host, self._to))
        except (OSError, asyncio.CancelledError):  # cancelled by _close: nobody awaits this task
            _abort(writer)
        finally:
            self._links.discard(link)

    async def _reset(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._writers = [writer]
        self._answered = False
        self.cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        ways = [
            asyncio.ensure_future(self._requests(self._client[0], writer)),
            asyncio.ensure_future(self._replies(reader, self._client[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in self._writers:
                each.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._proxy.watch(data)
            if self._proxy.error is not None:
                self._answer(data, self._proxy.error)
            elif self._proxy.mode != "blackhole" and not self.cut:
                writer.write(data)
                await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._proxy.delay:
                await asyncio.sleep(self._proxy.delay)
            if self._proxy.mode == "pass" and not self.cut:
                writer.write(data)
                await writer.drain()

    def _answer(self, data: bytes, state: str) -> None:
        """An ErrorResponse per statement, ReadyForQuery after Sync or Query.

        Format: https://www.postgresql.org/docs/current/protocol-message-formats.html. Messages are
        taken to be whole in what one read returns, as drivers send them.
        """
        while len(data) >= 5:
            kind, length = data[:1], struct.unpack("!I", data[1:5])[0]
            data = data[1 + length :]
            if not self._answered:
                fields = f"SERROR\0VERROR\0C{state}\0Msimulated by the proxy\0\0".encode()
                self._client[1].write(b"E" + struct.pack("!I", len(fields) + 4) + fields)
                self._answered = True
            if kind in b"SQ":
                self._client[1].write(b"Z\0\0\0\5I")
                self._answered = False

    def reset(self) -> None:
        for writer in self._writers:
            _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
