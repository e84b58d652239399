"""A virtual environment for each contestant, made from its pinned requirements when first needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "results" / "environments"


class NoInterpreter(Exception):
    """No Python here that the contestant runs on."""


def interpreter(wanted: str | None) -> str:
    """A Python of at least this minor version (such as "3.12"); None: the one that runs the suite.

    Raises:
        NoInterpreter: none found on PATH or among pyenv's.
    """
    if wanted is None:
        return sys.executable
    least = tuple(map(int, wanted.split(".")))
    if sys.version_info[:2] >= least:
        return sys.executable
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    newer = [f"3.{minor}" for minor in range(least[1], least[1] + 4)]
    for version in newer:
        for found in (
            shutil.which(f"python{version}"),
            *root.glob(f"versions/{version}.*/bin/python"),
        ):
            # a pyenv shim may be on PATH and yet lead to no interpreter
            if (
                found
                and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode
                == 0
            ):
                return str(found)
    raise NoInterpreter(f"needs Python {wanted} or newer, and none was found")


def python_of(name: str, *, wanted: str | None = None) -> str:
    """The interpreter of a contestant's environment, made anew when its requirements have changed.

    Raises:
        NoInterpreter: no Python here that the contestant runs on.
        RuntimeError: pip could not install the requirements.
    """
    requirements = HERE / "requirements" / f"{name}.txt"
    stamp = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = FOLDER / f"{name}-{stamp}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter(wanted), "-m", "venv", folder], check=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"pip could not install {requirements.name}: {done.stderr[-500:]}")
        (folder / "ready").touch()
    return str(python)
