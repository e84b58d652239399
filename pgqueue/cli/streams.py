"""Standard streams as they come: closed ones, and encodings that cannot write everything."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

STANDARD = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


def prepare() -> None:
    """Lead closed streams to the null device, and write what an encoding lacks as escapes.

    A descriptor left closed would go to the next file or socket, and what others print would go there.
    """
    for descriptor, (name, mode) in STANDARD.items():
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
        if getattr(sys, name) is None:
            with suppress(OSError):
                setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # a stream of somebody else's
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
