"""The outside world, as bad as the real one: a mail server and a webhook on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


def order_of(email: str) -> int:
    """``customer12@shop.example`` -> 12."""
    return int(email.partition("@")[0].removeprefix("customer"))


class Mail:
    """Refuses every 10th customer for ever, every 4th the first time; every 30th mailbox is full.

    ``fixed`` mends the full and the missing mailboxes.
    """

    def __init__(self) -> None:
        self.delivered: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.fixed = False
        with socket.socket() as probe:  # aiosmtpd cannot say which port 0 became
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._controller = Controller(self, hostname="127.0.0.1", port=self._port)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        number = order_of(address)
        self.asked[number] += 1
        if number % 30 == 0 and not self.fixed:
            return "452 the mailbox is full"
        if number % 10 == 0 and not self.fixed:
            return "550 no such mailbox"
        if number % 4 == 0 and self.asked[number] == 1:
            return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        for address in envelope.rcpt_tos:
            self.delivered[order_of(address)] += 1
        return "250 delivered"

    def start(self) -> str:
        """Start; returns its URL."""
        self._controller.start()
        return f"smtp://127.0.0.1:{self._port}"

    def stop(self) -> None:
        self._controller.stop(no_assert=True)


class Webhook:
    """Answers 200, or the first time 429 (every 5th), 500 (every 7th), or hangs (every 11th)."""

    def __init__(self) -> None:
        self.accepted: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                number = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["order"]
                webhook.answer(self, number)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def answer(self, request: BaseHTTPRequestHandler, number: int) -> None:
        """Answer one request."""
        self.asked[number] += 1
        first = self.asked[number] == 1
        status = 200
        if first and number % 11 == 0:
            time.sleep(3)  # hang: the caller has long given up
            return
        if first and number % 5 == 0:
            status = 429
        elif first and number % 7 == 0:
            status = 500
        else:
            self.accepted[number] += 1
        request.send_response(status)
        if status == 429:
            request.send_header("Retry-After", "1")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def start(self) -> str:
        """Start; returns its URL."""
        self._thread.start()
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/orders"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
