"""Job classes belong to an app, like tasks: two apps of one process do not see each other's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import InitVar, field
from typing import Any, ClassVar

import psycopg
import pytest

from pgqueue import App, ArgumentsError, Context, Job, TaskError, given
from pgqueue.worker.pools import declared
from tests.support import drain, statuses


def declare(qualname: str, name: str = "twice", **more: Any) -> type[Job]:
    def handle(self: Any) -> None: ...

    return type(
        "Twice", (Job,),
        {"name": name, "handle": handle, "__module__": "m", "__qualname__": qualname, **more},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_class_stays() -> Iterator[None]:
    yield
    gc.collect()


async def test_two_apps_have_classes_of_one_name(app: App, dsn: str) -> None:
    ran: list[str] = []
    other = App(dsn, schema="other")

    @app.job
    class One(Job):
        name = "twice"
        queue = "one"

        def handle(self) -> None:
            ran.append("one")

    @other.job
    class Two(Job):
        name = "twice"
        queue = "two"
        limits: ClassVar[dict[str, Any]] = {"limit": 1}

        def handle(self) -> None:
            ran.append("two")

    app.dispatch(One()).enqueue()
    await drain(app)
    assert ran == ["one"]
    assert "one" in declared(app) - declared(other)
    assert "two" in declared(other) - declared(app)
    limited = ["keyed" in each.settings_declared().tasks["twice"] for each in (app, other)]
    assert limited == [False, True]
    for theirs, job in ((app, Two()), (other, One())):
        with pytest.raises(TaskError, match="is a job class of another app"):
            theirs.dispatch(job)


def test_a_class_of_two_apps(app: App) -> None:
    other = App("")
    cls = other.job(app.job(declare("A")))
    for each in (app, other):
        each.dispatch(cls()).call()
        assert each.definition("twice") is cls.definition


async def test_one_that_nobody_decorated_belongs_to_who_uses_it_first(
    app: App, conn: psycopg.Connection
) -> None:
    class Plain(Job):
        aliases = ("of old",)
        name = "plain"

        def handle(self) -> None: ...

    # As in a worker process, which has dispatched none.
    conn.execute("select pgqueue.enqueue('of old')")
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert App("").definition("plain") is None
    App("").dispatch(Plain()).call()


async def test_a_worker_takes_what_belongs_to_nobody(app: App) -> None:
    class Plain(Job):
        queue = "mine"

        def handle(self) -> None: ...

    assert "mine" in declared(app)
    assert "mine" not in declared(App(""))


def test_two_job_classes_of_one_name(app: App) -> None:
    app.job(declare("A"))
    again = app.job(declare("A"))  # a module that is imported again
    assert app.definition("twice") is again.definition
    for use in (app.job, lambda cls: app.dispatch(cls())):
        with pytest.raises(TaskError, match=r"two job classes are named twice: m\.A and m\.B"):
            use(declare("B"))
    with pytest.raises(TaskError, match="two job classes are named twice"):
        app.job(declare("C", "other", aliases=["twice"]))
    with pytest.raises(TaskError, match="two tasks are named twice"):

        @app.task(name="twice")
        def task() -> None: ...


def test_a_class_with_the_name_of_a_task(app: App) -> None:
    @app.task(name="twice")
    def task() -> None: ...

    cls = declare("A")
    for use in (app.job, lambda cls: app.dispatch(cls()), lambda _: app.definitions):
        with pytest.raises(TaskError, match="two tasks are named twice"):
            use(cls)


def test_a_worker_does_not_choose_between_two_that_belong_to_nobody(app: App) -> None:
    one, other = declare("A"), declare("B")
    for look in (lambda: app.definitions, lambda: app.definition("twice")):
        with pytest.raises(TaskError, match=r"named twice: m\.A and m\.B; .*@app\.job"):
            look()
    assert app.definition("another") is None
    del other
    gc.collect()
    assert app.definition("twice") is one.definition


def test_classes_that_are_gone_take_no_name(app: App) -> None:
    for qualname in ("A", "B"):
        declare(qualname)
    cls = declare("C")
    assert cls.definition in app.definitions


def test_what_is_no_job_class(app: App) -> None:
    class Base(Job): ...

    class Inherits(declare("A")):  # type: ignore[misc]
        name = "inherits"

    for what in (Base, object, 3):
        with pytest.raises(TaskError, match=r"takes a Job class with handle\(\)"):
            app.job(what)  # type: ignore[type-var]
    assert app.job(Inherits).definition.name == "inherits"


class Added(Job):
    at: int
    more: InitVar[int] = 2

    def __post_init__(self, more: int) -> None:
        self.at += more

    def handle(self) -> None: ...


class Doubled(Job):
    at: int

    def __init__(self, at: int) -> None:
        self.at = at * 2

    def handle(self) -> None: ...


class DoubledToo(Doubled):
    def handle(self) -> None: ...

    def __init__(self, at: int) -> None:
        super().__init__(at)


class Listed(Job):
    at: list[int]

    def __post_init__(self) -> None:
        self.at = [*self.at, 1]

    def handle(self) -> None: ...


@pytest.mark.parametrize("job", [Added(1), Doubled(1), DoubledToo(1), Listed([])], ids=repr)
def test_one_that_a_worker_would_make_otherwise(job: Job) -> None:
    with pytest.raises(ArgumentsError, match=r"at changes when a worker makes the job again"):
        App("postgresql:///nowhere").dispatch(job).call()


def test_one_that_a_worker_cannot_make() -> None:
    class Odd(Job):
        at: int

        def __post_init__(self) -> None:
            if self.at % 2:
                raise ValueError
            self.at += 1

        def handle(self) -> None: ...

    with pytest.raises(ArgumentsError, match="cannot be made again of its fields: ValueError"):
        App("postgresql:///nowhere").dispatch(Odd(2)).call()


async def test_one_with_an_init_of_its_own(app: App, conn: psycopg.Connection) -> None:
    got: list[Any] = []

    @app.job
    class Tidy(Job):
        name = "tidy"
        email: str
        tags: tuple[str, ...] = ()
        domain: str = field(init=False, default="")

        def __post_init__(self) -> None:
            self.email = self.email.lower()
            self.domain = self.email.partition("@")[2]

        def handle(self) -> None:
            got.append((self.email, self.tags, self.domain))

    app.dispatch(Tidy("Ada@Example.org", ("a",))).enqueue()
    await drain(app)
    assert got == [("ada@example.org", ("a",), "example.org")]


class Client:
    pass


async def test_what_handle_takes(app: App, conn: psycopg.Connection) -> None:
    def takes_more(self: Any, ctx: Context, number: int) -> None: ...

    with pytest.raises(TaskError, match=r"Twice\.handle\(\) takes number"):
        declare("Twice", handle=takes_more)
    got: list[Any] = []

    @app.resource
    def client() -> Iterator[Client]:
        yield Client()

    @app.job
    class Takes(Job):
        name = "takes"

        def handle(self, ctx: Context, client: Client = given(), *, often: int = 1) -> None:
            got.append((ctx.id, type(client), often))

    @app.job
    class Static(Job):
        name = "static"

        @staticmethod
        def handle() -> None:
            got.append("static")

    job = app.dispatch(Takes()).enqueue().id
    app.dispatch(Static()).enqueue()
    await drain(app, concurrency=1)
    assert got == [(job, Client, 1), "static"]


def test_an_argument_may_have_any_name() -> None:
    def takes(self: int, args: int, task: int) -> None: ...

    task = App("postgresql:///nowhere").task(name="takes")(takes)
    assert task.call(self=1, args=2, task=3) == task.call(1, 2, 3)
