"""Which calls are the same: the key of a call, and what cannot be one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from pgqueue import App, ConfigError, Encrypted, Job, TaskError, Unique
from pgqueue.job import UniqueKey

app = App("postgresql:///nowhere")


@dataclass
class Point:
    x: int
    y: int = 0


@app.task(unique=True)
def sync(customer_id: int, at: Point | None = None, *, full: bool = False) -> None: ...


@app.task(unique=["customer_id"])
def chosen(customer_id: int, note: str = "") -> None: ...


def key(call: Any) -> UniqueKey:
    assert call.key is not None
    found: UniqueKey = call.key
    return found


def test_the_same_call_in_other_words_has_the_same_key() -> None:
    plain = key(sync.call(7))
    assert plain == key(sync.call(customer_id=7)) == key(sync.call(7, None, full=False))
    assert len({plain, key(sync.call(8)), key(sync.call(7, full=True))}) == 3
    assert key(sync.call(7, Point(1))) == key(sync.call(7, Point(1, 0)))


def test_only_the_chosen_arguments_count() -> None:
    assert key(chosen.call(7, "a")) == key(chosen.call(7, "b"))
    assert key(chosen.call(7)) != key(chosen.call(8))


def test_the_key_tells_nothing_of_the_arguments() -> None:
    call = key(chosen.with_unique(by=["note"]).call(7, "patient 4711"))
    assert "4711" not in str(call)


def test_one_job_of_a_task_at_a_time() -> None:
    single = chosen.with_unique(by=[])
    assert key(single.call(1)) == key(single.call(2))


def test_a_job_class() -> None:
    class Renew(Job):
        contract: int
        reason: str = ""
        unique = Unique(by=["contract"], until="started")

        def handle(self) -> None: ...

    first = app.dispatch(Renew(1, "a")).call()
    assert first.key == app.dispatch(Renew(1, "b")).call().key
    assert first.key is not None
    assert first.key.until == "started"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Unique(by="customer_id"), "by takes several argument names, got the text"),
        (lambda: Unique(until="done"), "until is one of started, finished, succeeded, removed"),  # type: ignore[arg-type]
        (lambda: Unique(on_conflict="skip"), "on_conflict is one of"),  # type: ignore[arg-type]
        (lambda: Unique(on_conflict="replace"), 'until="started"'),
        (lambda: Unique(within="0s"), "at least 1 ms"),
        (lambda: Unique(within="soon"), "within must look like"),
        (lambda: sync.with_unique(""), "1 to 300 characters"),
        (lambda: sync.with_unique("k" * 301), "1 to 300 characters"),
        (lambda: sync.with_unique("\ud800"), "surrogate"),
        (lambda: sync.with_unique("k", by=["customer_id"]), "not both"),
        (lambda: sync.with_expires("-1s"), "expires"),
    ],
)
def test_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(TaskError, match=r"unique by 'nobody', which is no parameter"):
        sync.with_unique(by=["nobody"]).call(1)


def test_an_encrypted_argument() -> None:
    @app.task(name="secret")
    def secret(number: Annotated[str, Encrypted], customer: int) -> None: ...

    from pgqueue import Keys

    keyed = App("postgresql:///nowhere", keys=Keys.parse(Keys.generate()))
    bound = keyed.task(unique=True, name="secret2")(secret.function)
    with pytest.raises(TaskError, match="encrypted, would store what can be guessed"):
        bound.call("4711", 1)
    assert bound.with_unique(by=["customer"]).call("4711", 1).key is not None


def test_no_such_option() -> None:
    with pytest.raises(TypeError, match="no option 'uniqe'"):
        app.task(uniqe=True)  # type: ignore[call-overload]
