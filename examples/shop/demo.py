"""``make demo``: the shop from the first order to the last dead letter."""

from __future__ import annotations

import argparse
import os
import signal
import sys

STOPPED = "\nstopped; nothing is left behind\n"


def _leave(_number: int, _frame: object) -> None:
    """Before anything was started there is nothing to clean up."""
    os.write(sys.stdout.fileno(), STOPPED.encode())
    os._exit(130)


def _interrupt(_number: int, _frame: object) -> None:
    """Once is enough: what cleans up must not be interrupted by the next."""
    heed(signal.SIG_IGN)
    raise KeyboardInterrupt


def heed(handler: object) -> None:
    """Let Ctrl-C and SIGTERM do this from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; exit code 0 if everything held."""
    heed(_leave)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=120, help="how many, at most 240")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    chosen = parser.parse_args(arguments)
    from examples.shop.story import tell  # takes a while: only now can an interrupt be heeded

    heed(_interrupt)
    try:
        return 0 if tell(chosen.orders, chosen.workers) else 1
    except KeyboardInterrupt:
        sys.stdout.write(STOPPED)
        return 130


if __name__ == "__main__":
    sys.exit(main())
