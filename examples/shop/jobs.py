"""The shop's jobs. Workers run them by ``pgqueue work --app examples.shop.jobs:app``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import smtplib
from email.message import EmailMessage
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pgqueue import App, Backoff, Cancel, Context, Dead, Job, Retry, Unique

app = App()

SOON = Backoff.exponential("0.5s", cap="4s")


class MailboxUnavailable(Exception):
    """The mail server took no mail for an address this time."""


# One receipt an order, however often its request is sent again.
ONCE = Unique(by=["number"], until="removed")

# All workers together; the warehouse bears no more.
app.queue("webhooks", limit=8)
# What holds for every mail; with more of them waiting the shop takes no further orders.
app.queue("mail", max_pending=100_000, max_retries=3, backoff=SOON, timeout="10s")


@app.task(queue="mail", unique=ONCE)
def send_receipt(number: int, email: str) -> None:
    """Send the receipt by SMTP. A refusal for ever is dead at once, one for now is retried."""
    message = EmailMessage()
    message["From"], message["To"] = "shop@shop.example", email
    message["Subject"] = f"Your order {number}"
    message.set_content(f"Thank you for order {number}.")
    server = urlsplit(os.environ["SHOP_SMTP"])
    with smtplib.SMTP(server.hostname or "", server.port or 25, timeout=5) as smtp:
        try:
            smtp.send_message(message)
        except smtplib.SMTPRecipientsRefused as refused:
            code, reason = refused.recipients[email]
            if code >= 500:
                raise Dead(f"{code} {reason.decode()}") from None
            raise MailboxUnavailable(f"{code} {reason.decode()}") from None


class CallWebhook(Job):
    """Tell the warehouse by HTTP, and note in the same transaction that it was told."""

    number: int
    queue = "webhooks"
    max_retries = 6
    timeout = "1s"
    backoff = SOON

    async def handle(self, ctx: Context) -> None:
        status, headers = await post(os.environ["SHOP_WEBHOOK"], f'{{"order": {self.number}}}')
        if status == 429:
            raise Retry("asked to wait", after=headers.get("retry-after", "1"))
        if status != 200:
            raise RuntimeError(f"the webhook answered {status}")
        # The note and the job's completion commit together: once, whatever crashes.
        async with ctx.transaction() as conn:
            await conn.execute(
                "update shop.orders set told = told + 1 where number = $1", self.number
            )


@app.task(queue="invoices", run="process", timeout="20s", max_retries=3, backoff=SOON)
def render_invoice(number: int, customer: str, lines: list[tuple[str, int, int]]) -> None:
    """Render the invoice to a file, with a seal that takes a while to compute."""
    rows = "".join(
        f"<tr><td>{escape(item)}</td><td>{quantity}</td><td>{cents / 100:.2f}</td></tr>"
        for item, quantity, cents in lines
    )
    total = sum(quantity * cents for _, quantity, cents in lines) / 100
    page = f"<h1>Invoice {number}</h1><p>{escape(customer)}</p><table>{rows}</table>{total:.2f}"
    seal = hashlib.pbkdf2_hmac("sha256", page.encode(), b"shop", 10_000).hex()
    folder = Path(os.environ["SHOP_INVOICES"])
    draft = folder / f".{number}.{os.getpid()}"
    draft.write_text(f"{page}<footer>{seal}</footer>\n", encoding="utf-8")
    draft.rename(folder / f"{number}.html")  # whole or not at all, also when killed


# At night; every three seconds in the demo.
@app.task(cron=os.environ.get("SHOP_REPORT", "0 2 * * *"), tz="Europe/Oslo", overlap="skip")
async def nightly_report(ctx: Context) -> None:
    """Count the orders. The report and the job's completion commit together."""
    async with ctx.transaction() as conn:
        await conn.execute(
            "insert into shop.reports (job, orders) select $1, count(*) from shop.orders", ctx.id
        )


@app.task(queue="refunds")
async def refund(ctx: Context, number: int) -> int:
    """Take an order back, when a manager says so. Each step is done once; no worker waits meanwhile."""
    cents: int = await ctx.transaction_step("book", book_refund, number)
    decision = await ctx.wait_for_event("refunds decided", timeout="7d")
    if not decision["granted"]:
        raise Cancel("not granted")
    await ctx.transaction_step("pay", pay_refund, number)
    return cents


@app.task(queue="refunds")
def report_refunds(cents: list[int]) -> int:
    """Runs when all refunds of a batch have ended well, with what each returned."""
    return sum(cents)


async def book_refund(conn: Any, number: int) -> int:
    """Note that a refund is due; its cents."""
    cents: int = await conn.fetchval(
        "insert into shop.refunds (number, cents) select order_number, sum(quantity * cents)"
        " from shop.order_lines where order_number = $1 group by order_number returning cents",
        number,
    )
    return cents


async def pay_refund(conn: Any, number: int) -> None:
    """Pay it: in a real shop by the bank, with ctx.idempotency_key."""
    await conn.execute("update shop.refunds set paid = paid + 1 where number = $1", number)


async def post(url: str, body: str) -> tuple[int, dict[str, str]]:
    """POST JSON; returns the status and the headers, names in lower case."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        writer.write(
            f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if ":" in line)
        return int(head[0].split()[1]), {k.lower(): v.strip() for k, _, v in pairs}
    finally:
        writer.close()
