"""The embedded server ends with the process that started it, however that ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue.embedded import embedded_postgres
from tests.support import eventually, heed_interrupts

HOLDER = """
import time
from pgqueue.embedded import embedded_postgres
with embedded_postgres(settings={"fsync": "off"}) as dsn:
    print(dsn, flush=True)
    time.sleep(600)
"""


def refuses(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return True
    return False


def test_it_is_gone_after_the_block_and_leaves_no_folder() -> None:
    with (
        pytest.raises(RuntimeError, match="boom"),
        embedded_postgres(settings={"fsync": "off"}) as dsn,
    ):
        folder = socket_folder(dsn)
        raise RuntimeError("boom")
    assert refuses(dsn)
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_gone_after_a_signal_and_leaves_no_folder(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_interrupts,
    ) as holder:
        assert holder.stdout is not None
        dsn = holder.stdout.readline().strip()
        folder = socket_folder(dsn)
        holder.send_signal(number)
        holder.wait(30)
    eventually(lambda: refuses(dsn))
    eventually(lambda: not folder.exists())


def socket_folder(dsn: str) -> Path:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("show unix_socket_directories").fetchone()
    assert row is not None
    assert Path(row[0]).is_dir()
    return Path(row[0])


def test_kept_data_keeps_its_port_while_that_is_free() -> None:
    # Not tmp_path: PostgreSQL runs as another user when we are root, and pytest keeps others out.
    with tempfile.TemporaryDirectory(prefix="pgqueue-data-") as folder:
        data, fast = Path(folder) / "data", {"fsync": "off"}
        with embedded_postgres(data, settings=fast) as first:
            pass
        with embedded_postgres(data, settings=fast) as again:
            assert again == first
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", int(conninfo_to_dict(first)["port"])))
            other.listen()
            with embedded_postgres(data, settings=fast) as elsewhere:
                assert elsewhere != first
