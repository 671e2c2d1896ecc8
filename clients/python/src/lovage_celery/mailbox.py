"""A process's own queue for results: made on first use, drained by one thread, removed at the end.

A fork has none until it needs one of its own: results of what the parent sent go to the parent.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import random
import threading
import time
import uuid
import weakref
from dataclasses import dataclass, field
from typing import Any

import billiard.util
from celery.signals import worker_process_shutdown

from .errors import NotAResult, ResultQueueError
from .inbox import Inbox
from .settings import Settings
from .sqs import Received, Sqs, is_gone, is_lasting
from .wire import decode

logger = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.5, 30.0)

_all: weakref.WeakSet[Mailbox] = weakref.WeakSet()


@dataclass
class _Open:
    """A queue that is there, and the thread that drains it."""

    name: str
    url: str
    thread: threading.Thread | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    beat: float = field(default_factory=time.monotonic)


class Mailbox:
    """The queue of one app in this process, and what came to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sqs = Sqs(settings)
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self.inbox = Inbox(self.settings.max_results, self.settings.max_bytes)
        self.sqs.after_fork()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._open: _Open | None = None
        self._at_exit = False
        #: The queue's name, whether it is there already or not.
        self.name = f"{self.settings.prefix}{uuid.uuid4().hex}"

    @property
    def is_open(self) -> bool:
        """Whether this process has its queue."""
        return self._open is not None

    def open(self) -> None:
        """Makes the queue and drains it from now on. Does nothing where that is so already.

        Raises :exc:`~lovage_celery.ResultQueueError`.
        """
        opened = self._open
        if opened is not None and opened.thread is not None and opened.thread.is_alive():
            return
        with self._lock:
            if self._open is None:
                self._open = _Open(self.name, self._create())
                self._remove_at_exit()
            opened = self._open
            if opened.thread is None or not opened.thread.is_alive():
                opened.thread = threading.Thread(
                    # Waiting for results keeps no process from ending.
                    target=self._drain,
                    args=(opened,),
                    name=f"results-{self.name}",
                    daemon=True,
                )
                opened.thread.start()

    def close(self) -> None:
        """Stops draining and removes the queue. It may be opened again, as another queue."""
        with self._lock:
            opened, self._open = self._open, None
            if opened is None or self._pid != os.getpid():
                return
            opened.stop.set()
            name, self.name = self.name, f"{self.settings.prefix}{uuid.uuid4().hex}"
        try:
            self.sqs.remove(opened.url)
        except Exception as error:
            if not is_gone(error):
                logger.warning(
                    "the queue for results %s could not be removed, and stays until `python -m lovage_celery cleanup` "
                    "removes it: %s",
                    name,
                    error,
                )

    def _create(self) -> str:
        try:
            return self.sqs.create(self.name)
        except Exception as error:
            raise ResultQueueError(
                f"cannot make the queue for results {self.name}: {error}; "
                "the sender of tasks needs sqs:CreateQueue and sqs:TagQueue on queues of its prefix"
            ) from error

    def _remove_at_exit(self) -> None:
        if self._at_exit:
            return
        self._at_exit = True
        # A process of the interpreter's, of multiprocessing's and of billiard's: each has its own way to end.
        # Celery's pool ends its children by a fourth, see `_close_all`.
        close = _weakly(self)
        multiprocessing.util.Finalize(None, close, exitpriority=10)
        billiard.util.Finalize(None, close, exitpriority=10)

    def _drain(self, opened: _Open) -> None:
        failures = 0
        while not opened.stop.is_set():
            try:
                messages = self.sqs.receive(opened.url)
                for message in messages:
                    self._take(message)
                if messages and self.sqs.delete(opened.url, messages):
                    # They come again, and are the same then.
                    logger.debug("some results could not be deleted")
                self._beat(opened)
            except Exception as error:
                if opened.stop.is_set():
                    return
                failures += 1
                self._failed(opened, error)
                opened.stop.wait(_backoff(failures))
            else:
                failures = 0
                if self.inbox.failure is not None:
                    self.inbox.fail(None)

    def _take(self, message: Received) -> None:
        try:
            self.inbox.put(decode(message.body, message.correlation_id), len(message.body), message.sent_ms)
        except NotAResult as why:
            self._dropped(message, str(why))
        except Exception as error:
            # Should not be; but one message must not keep others from coming, nor come again and again.
            self._dropped(message, f"it could not be read ({type(error).__name__})")

    def _dropped(self, message: Received, why: str) -> None:
        # Never what is in it: it may be anybody's.
        logger.warning("message %s on the queue for results %s is dropped: %s", message.message_id, self.name, why)

    def _beat(self, opened: _Open) -> None:
        if time.monotonic() - opened.beat < self.settings.heartbeat_seconds:
            return
        opened.beat = time.monotonic()
        try:
            self.sqs.beat(opened.url)
        except Exception as error:
            logger.warning("the queue for results %s could not be tagged as in use: %s", opened.name, error)

    def _failed(self, opened: _Open, error: Exception) -> None:
        if is_gone(error):
            self._make_again(opened)
            return
        logger.warning("results cannot be received from %s: %s", opened.name, error)
        if is_lasting(error):
            self.inbox.fail(error)

    def _make_again(self, opened: _Open) -> None:
        logger.error("the queue for results %s is gone; it is made again, what was in it is lost", opened.name)
        try:
            # SQS refuses a name for a minute after its removal: then this is tried again.
            opened.url = self.sqs.create(opened.name)
        except Exception as error:
            logger.error("the queue for results %s cannot be made again yet: %s", opened.name, error)
            return
        if opened.stop.is_set():
            # It was us who removed it, a moment ago.
            self.sqs.remove(opened.url)


def _backoff(failures: int) -> float:
    first, most = _BACKOFF_SECONDS
    longest: float = min(most, first * 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - nobody gains by guessing it


def _weakly(mailbox: Mailbox) -> Any:
    reference = weakref.ref(mailbox)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    return close


def _after_fork() -> None:
    for mailbox in list(_all):
        mailbox._reset()


def _close_all(**_: Any) -> None:
    for mailbox in list(_all):
        mailbox.close()


worker_process_shutdown.connect(_close_all, weak=False, dispatch_uid="lovage_celery.mailbox")
os.register_at_fork(after_in_child=_after_fork)
