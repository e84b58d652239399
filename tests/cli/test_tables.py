"""Tables fit the terminal: names and errors are cut, words are not broken."""

from __future__ import annotations

import asyncio

import pytest

from pgqueue import App
from tests.cli.support import Cli
from tests.support import drain

TASK = "shop.orders.handlers.mail.send_the_receipt_of_an_order"
ERROR = "the mail server at mail.example.org did not answer within thirty seconds, so it goes on"


@pytest.fixture
def failed(dsn: str) -> None:
    app = App(dsn)

    @app.task(name=TASK, queue="mail-and-more", max_retries=0)
    def fails() -> None:
        raise TimeoutError(f"{ERROR}\nsecond line")

    fails.enqueue()
    asyncio.run(drain(app))
    app.close()


@pytest.mark.parametrize("columns", ["80", "100"])
def test_a_narrow_terminal(cli: Cli, failed: None, columns: str) -> None:
    printed = cli("dlq", COLUMNS=columns).stdout
    head, line, first, second = printed.splitlines()
    assert max(map(len, printed.splitlines())) <= int(columns)
    assert "last error" in head
    assert set(line) == {"─"}
    assert "…" in first  # the task, whose end says most
    assert "an_order" in first
    assert "TimeoutError: the" in first
    assert second.rstrip().endswith("…")
    words = ERROR.split()
    shown = (first + second).partition("TimeoutError:")[2].split()
    assert shown[:-1] == words[: len(shown) - 1]  # only the last may be cut


def test_a_wide_terminal(cli: Cli, failed: None) -> None:
    printed = cli("jobs", COLUMNS="250").stdout
    assert TASK in printed
    assert ERROR in printed
    assert "second line" not in printed


def test_a_short_error_is_one_line_and_two_next_runs_are_two(cli: Cli, app: App) -> None:
    @app.task(name="t")
    def t() -> None: ...

    app.chain(t.call(), t.call()).enqueue()
    printed = cli("workflow", "1", COLUMNS="80").stdout
    assert [line.split()[0] for line in printed.splitlines()[3:]] == ["1", "2"]
    app.client.add_schedule("nightly", "@daily", t.call())
    listed = cli("cron", "list", COLUMNS="80").stdout
    assert "\\n" not in listed
    assert [line.count(" 00:00:00 UTC") for line in listed.splitlines()[2:]] == [1, 1]
