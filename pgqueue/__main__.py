"""``python -m pgqueue``."""

from pgqueue.cli import main

main()
