"""Makes ``reply_to`` name the client's queue, in messages and in the signatures that they carry.

Celery takes ``reply_to`` from ``app.thread_oid``, which it keeps in a ``threading.local`` of the app. That is replaced
by one that says our name. But the first message, or the first signature, has taken a name before Celery makes the
backend at all: such names are noted, and replaced where they leave the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery._state import get_current_worker_task, task_join_will_block
from celery.signals import before_task_publish

# What Celery called a thread's queue before there was a backend, and who says its real name.
_former: dict[str, Callable[[], str]] = {}


class _Local(threading.local):
    """Celery's per-thread values of an app; ``oid`` is the name that ``reply_to`` gets."""

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name

    @property
    def oid(self) -> str:
        return self._name()

    @oid.setter
    def oid(self, former: str) -> None:
        # By a thread that was about to name its queue as this came in the place of Celery's own. It goes on with that.
        _former.setdefault(former, self._name)


class ReplyTo:
    """The ``reply_to`` of one app's messages."""

    def __init__(self, app: Any, own: Callable[[], str]) -> None:
        self._own = own
        self._before: Any = getattr(app, "_local", None)
        app._local = _Local(self.name)
        self.note_former()
        before_task_publish.connect(_before_publish, weak=False, dispatch_uid="lovage_celery.reply_to")

    def name(self) -> str:
        """The queue for results of what is sent now, by this thread; empty for none."""
        inherited = self.inherited()
        return self._own() if inherited is None else inherited

    def inherited(self) -> str | None:
        """Where the task that a worker executes in this thread answers to; empty if it does nowhere.

        What such a task sends answers there, too: there somebody may wait for it (``children``, ``replace``), while a
        task must not. ``None`` where there is none, or it says that it does wait, by ``allow_join_result``.
        """
        request = current_request()
        if request is None or not task_join_will_block():
            return None
        name = request.reply_to
        return name if isinstance(name, str) else ""

    def note_former(self) -> None:
        """Notes what Celery called this thread's queue before."""
        former = getattr(self._before, "oid", None)
        if isinstance(former, str) and former not in _former:
            _former[former] = self.name

    def forget_former(self) -> None:
        """Drops what was noted, with the app."""
        for former in [former for former, name in _former.items() if name == self.name]:
            del _former[former]


def current_request() -> Any:
    """The request of the task that this thread executes for a worker, or ``None``."""
    return getattr(get_current_worker_task(), "request", None)


def _before_publish(
    sender: str | None = None,
    body: Any = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **_: Any,
) -> None:
    if properties is None:
        return
    request = current_request()
    task_id = (headers or {}).get("id")
    if request is not None and task_id and task_id == request.id and request.reply_to:
        # The same task once more, from a retry or replaced by another: whoever waits for it still does.
        properties["reply_to"] = request.reply_to
    if not _former:
        return
    _correct(properties)
    carries = body[2] if isinstance(body, tuple) and len(body) == 3 else body
    if isinstance(carries, dict) and any(carries.values()):
        _correct(carries)
    if (sender or "").startswith("celery.") and isinstance(body, tuple):
        _correct(body[:2])


def _correct(value: Any) -> None:
    """Replaces former names in ``reply_to`` of all dicts within, each visited once."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        if isinstance(item, dict):
            seen.add(id(item))
            real = _former.get(item["reply_to"]) if isinstance(item.get("reply_to"), str) else None
            if real is not None:
                item["reply_to"] = real()
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            seen.add(id(item))
            pending.extend(item)
