"""For tests of applications: what was enqueued, and running it on the test's own connection.

``QueueTester`` (sync) and ``AsyncQueueTester`` work inside a transaction that the test rolls back, with the same
SQL as a worker. ``inline`` runs jobs where they are enqueued. ``context`` is for calling a task directly.
"""

from pgqueue.testing.direct import context
from pgqueue.testing.inline import inline
from pgqueue.testing.tester import AsyncQueueTester, QueueTester

__all__ = ["AsyncQueueTester", "QueueTester", "context", "inline"]
