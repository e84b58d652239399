"""A soak of one worker: ``python -m tests.soak --minutes 5``; nothing of it may grow."""
