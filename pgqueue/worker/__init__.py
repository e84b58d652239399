"""The worker: claims jobs, runs them, records what became of them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Self, Unpack

from pgqueue import config
from pgqueue.checks import flag, shown, whole_number
from pgqueue.config import Given, Settings
from pgqueue.errors import ConfigError
from pgqueue.worker import logs
from pgqueue.worker.pools import Queues, pools
from pgqueue.worker.supervisor import (
    REPLACE,
    SUSPECTS,
    Beside,
    line,
    quarantined,
    supervised,
    tell,
)

if TYPE_CHECKING:
    from pgqueue.app import App
    from pgqueue.worker.quarantine import Apart
    from pgqueue.worker.runtime import Runtime
    from pgqueue.worker.several import Several

LEAST_THREADS = 32
LAST_TASKS = 2.0  # seconds


LOOK_EVERY = 0.02
TO_BE_ENDED = 10.0


class Worker:
    """Runs an app's jobs in this process until it is stopped.

    Args:
        app: the application whose tasks it knows.
        queues: names, or names with their own concurrency (``{"mail": 20}``); None for all.
        drain: end when nothing is due any more.
        max_jobs: end after this many jobs.
        settings: any field of ``pgqueue.config.Settings``: concurrency, lease, max_rss, grace, ...

    Raises:
        ConfigError: a queue name or setting is wrong.
    """

    def __init__(
        self,
        app: App,
        queues: Queues = None,
        *,
        drain: bool = False,
        max_jobs: int | None = None,
        **settings: Unpack[Given],
    ) -> None:
        if not _is_app(app):
            raise ConfigError(f"a worker takes an App, such as Worker(app), got {shown(app)}")
        self.app = app
        self._given = settings
        self._queues = queues
        pools(queues, 1)
        self._drain = flag(drain, "drain")
        self._max_jobs = None if max_jobs is None else whole_number(max_jobs, "max_jobs", least=1)
        self._runtime: Runtime | None = None
        self._serving: Runtime | Several | None = None
        self._ends_process = False
        self._beside: Beside | None = None
        self._apart: Apart | None = None
        self.settings  # noqa: B018  a wrong setting is reported here and now

    @property
    def settings(self) -> Settings:
        """The settings in force: arguments over environment over files."""
        return config.load().settings.with_(**self._given)

    def concurrency(self, jobs: int) -> Self:
        """Run this many jobs at once."""
        self._given["concurrency"] = jobs
        self.settings  # noqa: B018
        return self

    def run(self) -> None:
        """Work until SIGTERM or Ctrl-C; a second signal does not wait for running jobs.

        Raises:
            SchemaError: the database's schema is missing, older or newer.
            PrivilegeMissing: the database role may not do what a worker does.
            TaskError: the arguments of a task cannot be read.
            ConfigError: the main module runs it as it is imported, and there are process tasks.
        """
        from pgqueue.worker.exits import run_to_end

        runner = asyncio.Runner(loop_factory=self._make_loop)
        try:
            run_to_end(runner, self.arun(signals=True))
        finally:
            _close(runner)

    def run_as_process(self, command: list[str] | None = None) -> NoReturn:
        """Run, then end the process, though handlers may still be running in threads.

        Their jobs are given back at the last moment; ``run`` must leave them to their leases, for
        the threads go on.

        Args:
            command: starts this worker anew, in another process, for suspects.
        """
        from pgqueue.worker.exits import run_to_end
        from pgqueue.worker.garbage import collect_less_often

        collect_less_often()
        self._ends_process = True
        self._choose_place(command)
        runner = asyncio.Runner(loop_factory=self._make_loop)
        try:
            run_to_end(runner, self._run_and_exit())
        finally:
            _close(runner)
        raise AssertionError("unreachable")

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop with as many threads for ``asyncio.to_thread`` as there may be handlers, none of which keeps it from ending."""
        from pgqueue.worker.exits import own_tasks
        from pgqueue.worker.threads import DaemonThreads

        loop = _loop_factory()()
        size = sum(pools(self._queues, self.settings.concurrency).values())
        loop.set_default_executor(DaemonThreads(max(size, LEAST_THREADS), "asyncio"))
        loop.set_task_factory(own_tasks)
        return loop

    def _choose_place(self, command: list[str] | None) -> None:
        """Where suspects run: here alone, by the supervisor, or in a process beside this one."""
        from pgqueue.worker.quarantine import Apart

        if quarantined():
            self._apart = Apart(only=True)
        elif line() is not None:
            self._apart = Apart(isolate=lambda: tell(SUSPECTS))
        elif command is not None and sys.platform != "win32":
            beside = self._beside = Beside(command, self.settings.grace)
            self._apart = Apart(
                isolate=beside.isolate, at_rest=lambda: beside.at_rest, pids=beside.pids
            )

    async def _run_and_exit(self) -> None:
        await self.arun(signals=True)
        if self._beside is not None:
            if not self._beside.ending:  # told once more, it would not wait for its jobs
                self._beside.stop()
            for _ in range(int((self.settings.grace + TO_BE_ENDED) / LOOK_EVERY)):
                if not self._beside.pids():
                    break
                await asyncio.sleep(LOOK_EVERY)
        logs.say_last_words()
        # Here and now: leaving the loop would wait for handlers that swallow their cancellation.
        recycled = self._serving is not None and self._serving.recycled
        os._exit(REPLACE if recycled and supervised() else 0)

    async def arun(self, *, signals: bool = False) -> None:
        """The same in a running event loop, which keeps its own signal handlers."""
        from pgqueue.worker.exits import contained
        from pgqueue.worker.last_resort import LastResort
        from pgqueue.worker.main_guard import check_main_guard
        from pgqueue.worker.quarantine import Apart
        from pgqueue.worker.several import Several
        from pgqueue.worker.signals import Signals

        self.app.check()
        check_main_guard([each.name for each in self.app.definitions if each.run == "process"])
        self._apart = self._apart or Apart()  # for all databases
        dsns = self.app.dsns
        serving = Several(dsns, self._make, drain=self._drain) if len(dsns) > 1 else self._make()
        self._serving = serving
        if not signals:
            with contained():
                await serving.run()
            return
        last_resort = LastResort(self.settings.grace)
        watch = Signals(
            self.stop, lambda: serving.running, last_resort.told, supervised=supervised()
        )
        watch.install()
        watching = asyncio.create_task(watch.run())
        try:
            await serving.run()
        finally:
            last_resort.over()
            watching.cancel()
            if not self._ends_process:  # until its end, one more signal is one too many
                watch.remove()

    def _make(self) -> Runtime:
        from pgqueue.worker.runtime import Runtime

        self._runtime = Runtime(
            self.app,
            self.settings,
            pools(self._queues, self.settings.concurrency),
            drain=self._drain,
            max_jobs=self._max_jobs,
            ends_process=self._ends_process,
            apart=self._apart,
        )
        return self._runtime

    def stop(self) -> None:
        """Ask a worker that runs in this event loop to end; again, to end without waiting."""
        if self._serving is not None:
            self._serving.stop()
        if self._beside is not None:
            self._beside.stop()


def _is_app(value: object) -> bool:
    from pgqueue.app import App

    return isinstance(value, App)


def _close(runner: asyncio.Runner) -> None:
    """Close its event loop, though a handler may swallow its cancellation, for which ``Runner.close`` would wait."""
    loop = runner.get_loop()
    if loop.run_until_complete(_end_tasks()):
        runner.close()
    else:
        loop.close()
        asyncio.set_event_loop(None)


async def _end_tasks() -> bool:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return not tasks or not (await asyncio.wait(tasks, timeout=LAST_TASKS))[1]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop
    return uvloop.new_event_loop
