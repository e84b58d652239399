"""Chosen arguments are ciphertext in the row and plain in the handler."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest

from pgqueue import App, ArgumentsError, ConfigError, KeyMissing, Keys, Secret
from pgqueue.codec import signature_of
from pgqueue.keys import FIELD, is_encrypted
from tests.cli.support import Cli
from tests.secrets import tasks
from tests.secrets.tasks import KEY, OLD, Login, login, login_process
from tests.support import drain, statuses

APP = "tests.secrets.tasks:app"


@pytest.fixture
async def app(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """The tasks' app on the test's database, with a key."""
    await use(dsn, monkeypatch, KEY)
    tasks.seen.clear()
    yield tasks.app
    await tasks.app.aclose()
    tasks.app.__dict__.pop("privacy", None)


async def use(dsn: str, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("PGQUEUE_KEYS", keys)
    await tasks.app.aclose()
    tasks.app.__dict__.pop("privacy", None)  # read from the environment once
    tasks.app.use(dsn=dsn)


def stored(conn: psycopg.Connection) -> str:
    return repr(conn.execute("select j.args::text, j.last_error, a.* from pgqueue.jobs j"
                             " left join pgqueue.attempts a on a.job_id = j.id").fetchall())  # fmt: skip


async def test_functions_and_classes(app: App, conn: psycopg.Connection) -> None:
    await login.aenqueue("ada", "hunter2", pin=4711)
    await app.dispatch(Login("eve", "swordfish"))
    assert FIELD in stored(conn)
    for secret in ("hunter2", "4711", "swordfish"):
        assert secret not in stored(conn)
    await drain(app)
    assert sorted(tasks.seen, key=str) == [("ada", "hunter2", 4711), ("eve", "swordfish")]


@pytest.mark.parametrize("count", [3, 2000])
async def test_many_at_once(app: App, conn: psycopg.Connection, count: int) -> None:
    await app.aenqueue_many([login.call("ada", f"hunter{n}") for n in range(count)])
    row = conn.execute("select count(distinct args #>> '{password,$encrypted}'),"
                       " count(*) filter (where args::text like '%hunter%') from pgqueue.jobs"
                       ).fetchone()  # fmt: skip
    assert row == (count, 0)
    await drain(app, keep_succeeded=0)
    assert len(set(tasks.seen)) == count


async def test_processes_and_their_errors(app: App, conn: psycopg.Connection) -> None:
    job = await login_process.aenqueue("ada", "open sesame")
    await drain(app, processes=1)
    attempts = await app.aclient.attempts(job.id)
    assert "ada may not log in with [redacted]" in (attempts[0].error or "")
    assert "sesame" not in stored(conn)
    assert "only-a-local" not in stored(conn)


async def test_a_missing_key_leaves_the_job_for_later(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job = await login.aenqueue("ada", "hunter2")
    await use(dsn, monkeypatch, OLD)
    await drain(app)
    assert "password is encrypted with key" in caplog.text
    assert "PGQUEUE_KEYS" in caplog.text
    assert statuses(conn) == {job.id: "pending"}
    assert conn.execute("select attempt from pgqueue.jobs").fetchone() == (0,)
    await use(dsn, monkeypatch, f"{OLD},{KEY}")
    conn.execute("update pgqueue.jobs set run_at = clock_timestamp()")
    await drain(app)
    assert tasks.seen == [("ada", "hunter2", 0)]


@pytest.mark.parametrize("change", ["task", "parameter", "text", "format"])
async def test_a_ciphertext_cannot_be_moved_or_changed(
    app: App, conn: psycopg.Connection, change: str
) -> None:
    if change == "task":  # both have a parameter of that name
        await app.dispatch(Login("ada", "hunter2"))
    else:
        await login.aenqueue("ada", "hunter2")
    conn.execute({
        "task": "update pgqueue.jobs set task = 'login-process'",
        "parameter": "update pgqueue.jobs set args = args || jsonb_build_object('pin', args -> 'password')",
        "text": "update pgqueue.jobs set args = jsonb_set(args, '{password,$encrypted}',"
                " to_jsonb(regexp_replace(args #>> '{password,$encrypted}', '.{8}$', 'AAAAAAA=')))",
        "format": "update pgqueue.jobs set args = jsonb_set(args, '{password,$encrypted}', '\"v9.x\"')",
    }[change].encode())  # fmt: skip
    await drain(app)
    row = conn.execute("select status, last_error from pgqueue.jobs").fetchone()
    assert row is not None
    assert row[0] == "dead"
    assert ("format" if change == "format" else "does not decrypt") in row[1]
    assert tasks.seen == []


async def test_without_keys_nothing_is_enqueued(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(dsn, monkeypatch, "")
    with pytest.raises(ConfigError, match="set PGQUEUE_KEYS"):
        await login.aenqueue("ada", "hunter2")
    assert statuses(conn) == {}


async def test_edited_arguments_are_encrypted(app: App, conn: psycopg.Connection) -> None:
    job = await login.aenqueue("ada", "hunter2")
    await app.aclient.cancel(job.id)
    assert await app.aclient.retry(job.id, args={"user": "eve", "password": "swordfish"})
    assert "swordfish" not in stored(conn)
    await drain(app)
    assert tasks.seen == [("eve", "swordfish", 0)]


def test_edited_by_the_command_line(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = str(login.enqueue("ada", "hunter2").id)
    app.client.cancel(int(job_id))
    monkeypatch.setenv("PGQUEUE_KEYS", "")
    edit = ("retry", job_id, "--args", '{"user": "eve", "password": "swordfish"}', "--app", APP)
    assert "set PGQUEUE_KEYS" in Cli(dsn)(*edit, code=2).stderr
    monkeypatch.setenv("PGQUEUE_KEYS", KEY)
    Cli(dsn)(*edit)
    assert "swordfish" not in stored(conn)
    assert app.client.job(int(job_id)).status == "pending"


async def test_rotation(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(dsn, monkeypatch, OLD)
    waiting, dead, running = [login.call("ada", f"hunter{n}") for n in range(3)]
    ids = await app.aenqueue_many([waiting, dead, running])
    conn.execute("update pgqueue.jobs set status = 'running' where id >= %s", (ids[1].id,))
    conn.execute("update pgqueue.jobs set status = 'dead' where id = %s", (ids[1].id,))
    monkeypatch.setenv("PGQUEUE_KEYS", KEY)
    without = Cli(dsn)("rekey", code=1)
    assert "left: job" in without.stderr
    assert "PGQUEUE_KEYS" in without.stderr
    monkeypatch.setenv("PGQUEUE_KEYS", f"{KEY},{OLD}")
    done = json.loads(Cli(dsn)("rekey", "--json", code=1).stdout)
    assert done == {"changed": [i.id for i in ids[:2]], "running": [ids[2].id], "left": {},
                    "schedules": [], "schedules_left": {}}  # fmt: skip
    conn.execute("update pgqueue.jobs set status = 'pending'"
                 " where status = 'running' and id = %s", (ids[2].id,))  # fmt: skip
    assert Cli(dsn)("rekey").stdout == "encrypted anew: 1 job\n"
    assert Cli(dsn)("rekey").stdout == "encrypted anew: 0 jobs\n"
    await use(dsn, monkeypatch, KEY)
    assert await app.aclient.retry(ids[1].id)
    await drain(app)
    assert sorted(tasks.seen) == [("ada", f"hunter{n}", 0) for n in range(3)]


def test_arguments_that_changed_meanwhile_are_not_replaced(
    app: App, conn: psycopg.Connection
) -> None:
    job_id = login.enqueue("ada", "hunter2").id
    assert app.client.replace_args([(job_id, '{"user": "other"}', "{}")]) == []
    assert FIELD in stored(conn)


OPTIONAL = '{"user": "u", "phrase": "swordfish"}'


def test_what_was_not_stored_is_encrypted_by_the_signature(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job has no secret; the edited one has. Without the app nobody can know, and it is refused."""
    app.client.cancel(app.dispatch(Login("ada")).enqueue().id)
    row = conn.execute("select id from pgqueue.jobs").fetchone()
    assert row is not None
    edit = ("retry", str(row[0]), "--args", OPTIONAL)
    assert "give --app module:name" in Cli(dsn)(*edit, code=2).stderr
    assert (
        "no task 'login-class'" in Cli(dsn)(*edit, "--app", "tests.cli.support:app", code=2).stderr
    )
    with App(dsn) as other, pytest.raises(ConfigError, match="not known to this app"):
        other.client.retry(row[0], args={"user": "u", "phrase": "swordfish"})
    assert "swordfish" not in stored(conn)
    Cli(dsn)(*edit, "--app", APP)
    assert FIELD in stored(conn)
    assert "swordfish" not in stored(conn)


def test_arguments_of_a_schedule_from_the_command_line_are_encrypted(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    add = ("cron", "add", "s", "@daily", "login-class", "--args", OPTIONAL)
    assert "give --app module:name" in Cli(dsn)(*add, code=2).stderr
    Cli(dsn)(*add, "--app", APP)
    row = conn.execute("select args::text from pgqueue.schedules").fetchone()
    assert row is not None
    assert FIELD in row[0]
    assert "swordfish" not in row[0]


def test_where_the_mark_may_stand() -> None:
    @dataclass
    class Card:
        number: Secret[str]
        following: Card | None = None

    assert is_encrypted(Secret[str])
    assert is_encrypted(Secret[str] | None)
    assert is_encrypted(list[Secret[str]])
    Card.__annotations__ = {"number": Secret[str]}
    assert is_encrypted(Card)
    assert not is_encrypted(dict[str, int])


def test_a_value_that_looks_encrypted_is_refused() -> None:
    def task(value: dict[str, str]) -> None: ...

    with pytest.raises(ArgumentsError, match="how encrypted values are stored"):
        signature_of(task).encode("t", ({FIELD: "x"},), {})


def test_keys() -> None:
    keys = Keys(KEY, OLD)
    sealed = keys.seal(b"1", task="t", parameter="p")
    assert pickle.loads(pickle.dumps(keys)).open(sealed, task="t", parameter="p") == b"1"
    with pytest.raises(KeyMissing):
        Keys(OLD).open(sealed, task="t", parameter="p")
    assert KEY not in repr(keys)
    assert keys.ids[0] in repr(keys)
    assert Keys.parse(f"{KEY}, {OLD}").ids == keys.ids
    assert len(Keys(Keys.generate()).ids) == 1
    for wrong in ("hunter2", "", "ä" * 44, KEY[:-4]):
        with pytest.raises(ConfigError, match="32 random bytes") as caught:
            Keys(wrong)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="at least one"):
        Keys()


def test_keys_are_not_read_from_files(tmp_path: object) -> None:
    from pathlib import Path

    from pgqueue import config

    Path(f"{tmp_path}/pgqueue.toml").write_text('keys = "x"')
    with pytest.raises(ConfigError, match="PGQUEUE_KEYS"):
        config.load(Path(str(tmp_path)), {})


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"import pgqueue\ntry: pgqueue.Keys({KEY!r})\nexcept pgqueue.ConfigError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "pgqueue-postgres[crypto]"' in done.stdout


async def test_rotation_reaches_what_waits_for_others_and_schedules(
    app: App, dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(dsn, monkeypatch, OLD)
    app.chain(login.call("ada", "hunter1"), login.call("ada", "hunter2")).enqueue()
    app.client.add_schedule("nightly", "@daily", login.call("ada", "hunter3"))
    monkeypatch.setenv("PGQUEUE_KEYS", KEY)
    assert "left: schedule nightly: " in Cli(dsn)("rekey", code=1).stderr
    monkeypatch.setenv("PGQUEUE_KEYS", f"{KEY},{OLD}")
    assert Cli(dsn)("rekey").stdout == "encrypted anew: 2 jobs\nand of schedules: nightly\n"
    assert Cli(dsn)("rekey").stdout == "encrypted anew: 0 jobs\n"
    await use(dsn, monkeypatch, KEY)
    app.client.run_schedule("nightly")
    await drain(app)
    assert sorted(tasks.seen) == [("ada", f"hunter{n}", 0) for n in (1, 2, 3)]


def test_a_declared_schedule_is_the_same_however_often_it_is_encrypted(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    """But another when its secret or the key is: the row must not keep an old one."""

    def declare(secret: str, keys: Keys) -> list[str]:
        mine = App(dsn, keys=keys)

        @mine.task(name="login")
        def login(password: Secret[str]) -> None: ...

        mine.cron("@daily", login.call(secret))
        return mine.write_schedules()

    assert declare("hunter2", Keys(OLD)) == ["login"]
    assert declare("hunter2", Keys(OLD)) == []
    assert declare("hunter3", Keys(OLD)) == ["login"]
    assert declare("hunter3", Keys(KEY, OLD)) == ["login"]
    assert declare("hunter3", Keys(KEY, OLD)) == []
    row = conn.execute("select args::text || declaration from pgqueue.schedules").fetchone()
    assert row is not None
    assert "hunter" not in row[0]
