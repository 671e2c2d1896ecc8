"""Results that came, and who waits for them.

A result may come before anybody asks, twice, out of order, or for nobody. So each is kept until it is forgotten or
there are too many; the latest word on a task wins, and a final one is not taken back.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from celery import states

from .wire import Meta

logger = logging.getLogger(__name__)

#: Of as many results that were dropped unread, one is logged.
_LOG_EVERY = 1000

#: What ends a task.
FINAL: frozenset[str] = states.READY_STATES


class _Kept(NamedTuple):
    meta: Meta
    size: int
    sent_ms: int

    @property
    def final(self) -> bool:
        return self.meta["status"] in FINAL


class Waiter:
    """One call that waits for several tasks, in its own thread."""

    def __init__(self, remaining: set[str], wants_messages: bool) -> None:
        self.remaining = remaining
        self.event = threading.Event()
        self._wants_messages = wants_messages
        self._messages: deque[Meta] = deque()
        self._done: deque[str] = deque()

    def tell(self, task_id: str, meta: Meta, final: bool) -> None:
        """Called by the inbox, with its lock held."""
        if self._wants_messages:
            self._messages.append(dict(meta))
        if final and task_id in self.remaining:
            self.remaining.discard(task_id)
            self._done.append(task_id)
        self.event.set()

    def messages(self) -> Iterator[Meta]:
        """What came since the last call, each once."""
        while self._messages:
            yield self._messages.popleft()

    def done(self) -> list[str]:
        """The tasks that came to an end since the last call."""
        done = []
        while self._done:
            done.append(self._done.popleft())
        return done


class Inbox:
    """All of one process's results, for any number of threads."""

    def __init__(self, max_results: int, max_bytes: int) -> None:
        self._max_results = max_results
        self._max_bytes = max_bytes
        # Re-entrant, since a result object that the garbage collector takes away calls `unwatch`.
        self._lock = threading.RLock()
        # Those that were read come first to be dropped, then the oldest.
        self._unread: OrderedDict[str, _Kept] = OrderedDict()
        self._read: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._dropped = 0
        self._watchers: dict[str, dict[int, Callable[[], Any]]] = {}
        self._waiters: dict[str, list[Waiter]] = {}
        #: Why no results come at present, if it looks to last.
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return len(self._unread) + len(self._read)

    def put(self, meta: Meta, size: int, sent_ms: int = 0) -> None:
        """Takes a result of ``size`` bytes that was sent at ``sent_ms``, and tells those who wait for it."""
        task_id = meta["task_id"]
        new = _Kept(meta, size, sent_ms)
        with self._lock:
            if not self._supersedes(task_id, new):
                return
            watchers = list(self._watchers.pop(task_id, {}).values()) if new.final else []
            self._remember(task_id, new, read=bool(watchers))
        # Outside of the lock: what is called from here is the caller's own. Before waiters wake, since what they
        # look at is what is set here.
        for watcher in watchers:
            resolve(watcher(), meta)
        with self._lock:
            for waiter in list(self._waiters.get(task_id, ())):
                waiter.tell(task_id, meta, new.final)

    def get(self, task_id: str) -> Meta | None:
        """The latest word on a task, for the caller to change as it likes."""
        with self._lock:
            kept = self._find(task_id)
            if kept is None:
                return None
            if kept.final and task_id in self._unread:
                self._read[task_id] = self._unread.pop(task_id)
            return dict(kept.meta)

    def has_final(self, task_id: str) -> bool:
        """Whether a task's end is known here."""
        with self._lock:
            kept = self._find(task_id)
            return kept is not None and kept.final

    def forget(self, task_id: str) -> None:
        """Drops what is known of a task."""
        with self._lock:
            self._drop(task_id)

    def watch(self, result: Any, weak: bool) -> None:
        """Has a result object told of its task's end: now, or once it comes."""
        with self._lock:
            known = self.get(result.id) if self.has_final(result.id) else None
            if known is None:
                held = weakref.ref(result) if weak else _strong(result)
                self._watchers.setdefault(result.id, {})[id(result)] = held
        if known is not None:
            resolve(result, known)

    def unwatch(self, result: Any) -> None:
        """Has a result object told of nothing any more."""
        with self._lock:
            watchers = self._watchers.get(result.id)
            if watchers is not None:
                watchers.pop(id(result), None)
                if not watchers:
                    self._watchers.pop(result.id, None)

    @contextmanager
    def waiter(self, task_ids: Iterable[str], wants_messages: bool) -> Iterator[Waiter]:
        """A waiter for the ends of tasks, already told what is known."""
        wanted = set(task_ids)
        waiter = Waiter(set(wanted), wants_messages)
        with self._lock:
            for task_id in wanted:
                self._waiters.setdefault(task_id, []).append(waiter)
                kept = self._find(task_id)
                if kept is not None:
                    waiter.tell(task_id, kept.meta, kept.final)
        try:
            yield waiter
        finally:
            with self._lock:
                for task_id in wanted:
                    others = self._waiters.get(task_id, [])
                    if waiter in others:
                        others.remove(waiter)
                    if not others:
                        self._waiters.pop(task_id, None)

    def fail(self, failure: Exception | None) -> None:
        """Tells all who wait why nothing comes; or, with ``None``, that all is well again."""
        with self._lock:
            self.failure = failure
            if failure is not None:
                for waiters in self._waiters.values():
                    for waiter in waiters:
                        waiter.event.set()

    def _find(self, task_id: str) -> _Kept | None:
        return self._unread.get(task_id) or self._read.get(task_id)

    def _supersedes(self, task_id: str, new: _Kept) -> bool:
        old = self._find(task_id)
        if old is None:
            return True
        if old.final:
            # As Celery's stores have it: a success stays, and stands above a failure of an earlier delivery.
            return bool(new.meta["status"] == states.SUCCESS != old.meta["status"])
        return new.final or new.sent_ms >= old.sent_ms

    def _remember(self, task_id: str, new: _Kept, read: bool) -> None:
        self._drop(task_id)
        (self._read if read else self._unread)[task_id] = new
        self._bytes += new.size
        while len(self) > self._max_results or (self._bytes > self._max_bytes and len(self) > 1):
            if self._read:
                self._drop(next(iter(self._read)))
                continue
            self._drop(next(iter(self._unread)))
            self._dropped += 1
            if self._dropped % _LOG_EVERY == 1:
                logger.warning(
                    "results that nobody has read are dropped (%d so far), since more than %d results or %d bytes "
                    "wait: read or forget them, use ignore_result, or raise max_results and max_bytes in "
                    "result_backend_transport_options",
                    self._dropped,
                    self._max_results,
                    self._max_bytes,
                )

    def _drop(self, task_id: str) -> None:
        for kept in (self._unread.pop(task_id, None), self._read.pop(task_id, None)):
            if kept is not None:
                self._bytes -= kept.size


def resolve(result: Any, meta: Meta) -> None:
    """Tells one result object its task's end. What its callbacks raise is theirs, and logged."""
    if result is None or result._cache is not None:
        return
    try:
        result._maybe_set_cache(dict(meta))
    except Exception:
        logger.exception("a callback of the result of task %s raised", meta["task_id"])


def _strong(result: Any) -> Callable[[], Any]:
    return lambda: result
