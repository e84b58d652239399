"""Tasks with secrets; process tasks are imported by module in their child."""

from __future__ import annotations

import os
from typing import Annotated

from pgqueue import App, Encrypted, Job, Secret

KEY = "EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8="
OLD = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="
seen: list[tuple[object, ...]] = []
app = App("", redact=["member_no"])


@app.task(name="login")
def login(user: str, password: Secret[str], pin: Annotated[int, Encrypted] = 0) -> None:
    seen.append((user, password, pin))


@app.task(name="login-process", run="process", max_retries=0)
def login_process(user: str, phrase: Secret[str]) -> None:
    local = "only-a-local"
    raise ValueError(f"{user} may not log in with {phrase}", len(local), os.getpid())


@app.task(name="own-names", redact=["colour"], max_retries=0)
def own_names(colour: str, member_no: int, note: str) -> None:
    raise ValueError(f"{colour} {member_no} {note}")


class Login(Job):
    user: str
    phrase: Secret[str] | None = None
    name = "login-class"

    async def handle(self) -> None:
        seen.append((self.user, self.phrase))
