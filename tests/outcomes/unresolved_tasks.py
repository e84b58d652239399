"""A task whose argument has a type that is there for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue import App

if TYPE_CHECKING:
    from decimal import Decimal

app = App()


@app.task(name="pay")
def pay(amount: Decimal) -> None: ...
