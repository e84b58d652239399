"""Importable, and in no registry: importing it is what a test looks for."""

from __future__ import annotations


def explode() -> None:
    raise AssertionError("a row made a worker run a function that is no task")
