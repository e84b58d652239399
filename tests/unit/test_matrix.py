"""What ``make test-matrix`` runs; that it runs is shown by running it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import matrix
from tests.matrix import HERE, MAJORS, PYTHONS, NotAtHand, chosen, environment_of, interpreter_of


def test_what_is_chosen() -> None:
    others = [version for version in PYTHONS if version != HERE]
    assert chosen([]) == (list(MAJORS), others, [])
    assert chosen(["-k", "x"]) == (list(MAJORS), others, ["-k", "x"])
    assert chosen(["15", "3.12", "tests/kit"]) == ([15], ["3.12"], ["tests/kit"])
    assert chosen(["3.13"]) == ([], ["3.13"], [])


def test_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_of(HERE) == Path(sys.executable)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAtHand, match=r"no python3\.99"):
        interpreter_of("3.99")
    folder = tmp_path / "versions" / f"{HERE}.0" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    assert interpreter_of(HERE) == folder / "python"
    # A shim that leads to another version is none.
    (tmp_path / "python3.99").symlink_to(sys.executable)
    with pytest.raises(NotAtHand):
        interpreter_of("3.99")
    assert "3.99" in matrix.with_python("3.99", [])
