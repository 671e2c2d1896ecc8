"""Clients that run as processes of their own: `python clients.py WHICH QUEUE`. What they print are queues' names."""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["greenlets"]:
    from gevent import monkey

    monkey.patch_all()

import multiprocessing
import os
import time
from typing import Any

import tasks


def _say(*what: object) -> None:
    print(*what, flush=True)


def _ask(app: Any, value: int) -> int:
    return int(app.signature("tasks.double", (value,)).apply_async().get(timeout=30))


def ends(app: Any) -> None:
    assert _ask(app, 21) == 42
    _say(app.backend.mailbox.name)


def fails(app: Any) -> None:
    ends(app)
    raise SystemExit(3)


def hangs(app: Any) -> None:
    ends(app)
    time.sleep(600)


def forks(app: Any) -> None:
    """Parent and children send, each with results of its own; a child may ask for none of the parent's."""
    ends(app)
    parent = app.backend.mailbox.name
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            # As a server's child ends: by way of what Python does at the end of a process.
            assert _ask(app, number) == number * 2
            assert app.backend.mailbox.name != parent
            _say(app.backend.mailbox.name)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert app.backend.mailbox.name == parent
    assert _ask(app, 50) == 100


def greenlets(app: Any) -> None:
    """Greenlets that wait let others run, the one that drains included."""
    import gevent

    ticks: list[float] = []

    def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)

    gevent.spawn(tick)
    asking = [gevent.spawn(_ask, app, number) for number in range(20)]
    gevent.joinall(asking, timeout=60)
    assert [it.value for it in asking] == [number * 2 for number in range(20)]
    before = len(ticks)
    try:
        app.AsyncResult("nobody's").get(timeout=1)
    except Exception as error:
        assert type(error).__name__ == "TimeoutError"
    assert len(ticks) > before + 5
    _say(app.backend.mailbox.name)


def _child(queue: str) -> None:
    # Of the app that the parent had: this is a fork.
    assert _APP is not None and _ask(_APP, 4) == 8
    _say(_APP.backend.mailbox.name)


_APP: Any = None


def multiplies(app: Any) -> None:
    global _APP
    _APP = app
    ends(app)
    child = multiprocessing.get_context("fork").Process(target=_child, args=("",))
    child.start()
    child.join(60)
    assert child.exitcode == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](tasks.make(sys.argv[2]))
