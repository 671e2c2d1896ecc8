"""The result backend ``sqs``.

For a client: results come to its own queue, are drained by one thread for each app and process, and answer all that
``AsyncResult``, ``ResultSet`` and ``GroupResult`` ask from memory. For a worker: each state of a task is one message
to the queue that the task's message names in ``reply_to``.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery import states
from celery.backends.base import Backend
from celery.exceptions import ImproperlyConfigured, TimeoutError  # noqa: A004 - it is Celery's that callers expect
from kombu.utils.url import maybe_sanitize_url

from .errors import ResultQueueError, ResultTooLarge
from .mailbox import Mailbox
from .reply_to import ReplyTo, current_request
from .settings import Settings
from .sqs import is_transient
from .wire import JSON, Meta, encode

logger = logging.getLogger(__name__)

E_NO_CHORD_SUPPORT = """
The "sqs" result backend does not support chords!

A group that is chained with a task is a chord, too: somebody has to wait for all of the group. Results of this
backend are known to the client that sent the tasks and to nobody else, so no worker can tell when a chord's header
is done. Backends with a store that workers share (Redis, DynamoDB, …) support chords.
"""

#: How often a call that waits looks whether it still makes sense to, in seconds.
_LONGEST_NAP = 1.0


class _Shared:
    """What all backends of one app share: Celery may make one for each thread, and for single tasks."""

    def __init__(self, app: Any, url: str | None) -> None:
        self.mailbox = Mailbox(Settings.of_app(app, url))
        mailbox = self.mailbox
        self.reply_to = ReplyTo(app, lambda: mailbox.name)


_shared: weakref.WeakKeyDictionary[Any, _Shared] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


def _after_fork() -> None:
    global _shared_lock  # which another thread of the parent may have held
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _shared_by(app: Any, url: str | None) -> _Shared:
    with _shared_lock:
        shared = _shared.get(app)
        if shared is None:
            shared = _shared[app] = _Shared(app, url)
            _close_with(app, shared)
        return shared


def _close_with(app: Any, shared: _Shared) -> None:
    """Removes the queue when the app is closed, or is there no more."""
    weakref.finalize(app, _end, shared)
    close: Callable[[Any], None] = type(app).close
    reference = weakref.ref(app)

    def close_with_queue() -> None:
        _end(shared)
        alive = reference()
        if alive is not None:
            close(alive)

    app.close = close_with_queue


def _end(shared: _Shared) -> None:
    shared.mailbox.close()
    shared.reply_to.forget_former()


class SQSBackend(Backend):  # type: ignore[misc]  # Celery has no types
    """Results over SQS queues, one for each client."""

    persistent = False
    # The queue's retention is what expires results.
    supports_autoexpire = True
    supports_native_join = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        if self.serializer != "json" or JSON not in self.accept:
            raise ImproperlyConfigured(
                f"the sqs result backend sends and reads results as JSON only: result_serializer is "
                f"{self.serializer!r}, and {JSON} has to be among result_accept_content (or accept_content)"
            )
        # One for all threads of an app.
        self.thread_safe = True
        self._shared = _shared_by(app, url)

    @property
    def mailbox(self) -> Mailbox:
        """This process's queue, and what came to it."""
        return self._shared.mailbox

    @property
    def is_async(self) -> bool:
        """Whether results are told of, rather than asked for."""
        return True

    def as_uri(self, include_password: bool = False) -> str:
        """The backend's URL, for people."""
        if not self.url or include_password:
            return self.url or "sqs://"
        sanitized: str = maybe_sanitize_url(self.url)
        return sanitized.rstrip("/") + "//" if sanitized.endswith(":///") else sanitized

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Pickled (in a result object), it is the backend of the app that is current there."""
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})

    # The client's side: sending.

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Called before each message is sent: the queue has to be there first."""
        self._shared.reply_to.note_former()
        if self._shared.reply_to.inherited() is None:
            self.mailbox.open()
        return {}

    # The client's side: what is known.

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:  # noqa: ARG002 - all is in memory
        """The latest word on a task, ``PENDING`` if there is none."""
        self._ensure_not_eager()
        meta = self.mailbox.inbox.get(task_id)
        return {"status": states.PENDING, "result": None} if meta is None else self.meta_from_decoded(meta)

    _get_task_meta_for = get_task_meta

    def is_cached(self, task_id: str) -> bool:
        """Whether a task's end is known."""
        return self.mailbox.inbox.has_final(task_id)

    def meta_from_decoded(self, meta: Meta) -> Meta:
        """Makes an exception of what was sent as one."""
        try:
            decoded: Meta = super().meta_from_decoded(meta)
        except Exception as error:  # such as SecurityError, for what is no exception's type
            decoded = {**meta, "result": error}
        return decoded

    def forget(self, task_id: str) -> None:
        """Drops what is known of a task."""
        self.mailbox.inbox.forget(task_id)

    def reload_task_result(self, task_id: str) -> None:
        """Nothing to do: what is known is always the latest."""

    # The client's side: waiting.

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:  # noqa: ARG002
        """Has a result object told of its task's end."""
        self.mailbox.inbox.watch(result, weak)
        return result

    def add_pending_results(self, results: Iterable[Any], weak: bool = False) -> list[Any]:
        """The same for several."""
        return [self.add_pending_result(result, weak) for result in results]

    def remove_pending_result(self, result: Any) -> Any:
        """Has a result object told of nothing any more."""
        self.mailbox.inbox.unwatch(result)
        return result

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's signature
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Waits for one result; answers its value, or raises what the task raised."""
        self._ensure_not_eager()
        for _ in self._wait(_leaves(result), timeout, interval, on_message, on_interval):
            pass
        return result.maybe_throw(callback=callback, propagate=propagate)

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002 - Celery's signature
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """The results of a set as they come: ids with metas, or with lists of results for groups within it."""
        self._ensure_not_eager()
        missing: dict[int, set[str]] = {}
        nodes_of: dict[str, list[Any]] = {}
        for node in result.results:
            leaves = set(_leaves(node))
            if not leaves:
                yield node.id, node.children
                continue
            missing[id(node)] = leaves
            for task_id in leaves:
                nodes_of.setdefault(task_id, []).append(node)
        for done in self._wait(nodes_of, timeout, interval, on_message, on_interval):
            for task_id in done:
                for node in nodes_of[task_id]:
                    missing[id(node)].discard(task_id)
                    if not missing[id(node)]:
                        yield node.id, node._get_task_meta() if hasattr(node, "_cache") else node.children

    def _wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        interval: float | None,
        on_message: Callable[[Meta], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> Iterator[list[str]]:
        """Waits until all of these tasks are done; yields the ids of those that are, as they come."""
        mailbox = self.mailbox
        if mailbox.is_open:
            mailbox.open()  # in case its thread has died
        nap = min(max(0.5 if interval is None else interval, 0.01), _LONGEST_NAP)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with mailbox.inbox.waiter(task_ids, on_message is not None) as waiter:
            while True:
                waiter.event.clear()
                finished = not waiter.remaining
                if on_message is not None:
                    for meta in waiter.messages():
                        on_message(meta)
                done = waiter.done()
                if done:
                    yield done
                if finished:
                    return
                if mailbox.inbox.failure is not None:
                    raise ResultQueueError(
                        f"results cannot be received from {mailbox.name}: {mailbox.inbox.failure}"
                    ) from mailbox.inbox.failure
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("The operation timed out.")
                waiter.event.wait(min(nap, left))
                if on_interval is not None:
                    on_interval()

    # The worker's side.

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        queue = self._destination(request)
        if queue is None:
            return result
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        try:
            body = encode(meta)
        except ResultTooLarge as error:
            if state not in self.READY_STATES:
                raise
            logger.error("task %s ends as a failure: %s", task_id, error)
            body = encode(self._too_large(meta, error))
        if not self.mailbox.sqs.send(queue, body, task_id):
            logger.info("the result of task %s is for nobody: there is no queue %s any more", task_id, queue)
        return result

    def _destination(self, request: Any) -> str | None:
        """The queue for a result, if there is one that is ours to send to."""
        request = request or current_request()
        name = getattr(request, "reply_to", None)
        settings = self.mailbox.settings
        if not settings.is_reply_queue(name):
            # Celery names one in each message, whatever the client's backend is.
            logger.debug("a result is for nobody: reply_to is not a queue that begins with %s", settings.prefix)
            return None
        return str(name)

    def _too_large(self, meta: Meta, error: ResultTooLarge) -> Meta:
        """What is sent in place of a result that SQS would not take."""
        told = [key for key in ("task_id", "date_done", "group_id", "parent_id") if key in meta]
        kept: Meta = {key: meta[key] for key in told}
        return {
            **kept,
            "status": states.FAILURE,
            "result": self.prepare_exception(error),
            "traceback": None,
            "children": [],
        }

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """With ``result_backend_always_retry``: what may go better later."""
        return is_transient(exc)

    # What needs a store that others can read.

    def ensure_chords_allowed(self) -> None:
        """There are none: see the message."""
        raise NotImplementedError(E_NO_CHORD_SUPPORT.strip())

    def reload_group_result(self, group_id: str) -> None:
        """Not possible: groups are not stored."""
        raise NotImplementedError("reload_group_result is not supported by the sqs result backend.")

    def save_group(self, group_id: str, result: Any) -> Any:
        """Not possible: groups are not stored."""
        raise NotImplementedError("save_group is not supported by the sqs result backend.")

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """Not possible: groups are not stored."""
        raise NotImplementedError("restore_group is not supported by the sqs result backend.")

    def delete_group(self, group_id: str) -> Any:
        """Not possible: groups are not stored."""
        raise NotImplementedError("delete_group is not supported by the sqs result backend.")


def _leaves(result: Any) -> Iterator[str]:
    """The ids of the tasks that a result, or a set of them, is of."""
    pending = [result]
    while pending:
        node = pending.pop()
        if hasattr(node, "_cache"):
            yield node.id
        else:
            pending.extend(node.results)
