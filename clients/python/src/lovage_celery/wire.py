"""Results as messages, both ways. README.md, "Wire", says what others have to send.

What is read here was written by whoever may send to the queue: it is checked for shape before anything of Celery's
sees it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from celery import states
from kombu.serialization import dumps
from kombu.utils import json

from .errors import NotAResult, ResultTooLarge, TaskFailed

#: A result as Celery's backends keep it: ``task_id``, ``status``, ``result``, ``traceback``, ``children``, …
Meta = dict[str, Any]

#: The most that SQS takes, in bytes: body and attributes together.
MAX_MESSAGE_BYTES = 1_048_576

CORRELATION_ID = "correlation_id"
CONTENT_TYPE = "content_type"
JSON = "application/json"

#: Celery's own limit is none.
MAX_ID_CHARS = 8192

_MAX_NESTED_CHILDREN = 64

# What Lovage says became of a job that has no value, where Celery has an exception of its own for it.
_LIMIT_KINDS = {
    "timed_out": ("TimeLimitExceeded", "billiard.exceptions"),
    "crashed": ("WorkerLostError", "billiard.exceptions"),
}
_REVOKED = {"revoked", "expired"}
_FAILED = {"failed", "rejected", "timed_out", "crashed"}


def attributes(task_id: str) -> dict[str, dict[str, str]]:
    """The message attributes of a result, as boto3 takes them."""
    values = {CORRELATION_ID: task_id, CONTENT_TYPE: JSON}
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}


def encode(meta: Meta) -> str:
    """The body of a result's message.

    Raises :exc:`~lovage_celery.ResultTooLarge` where SQS would refuse it, and kombu's ``EncodeError`` for what JSON
    cannot say.
    """
    body: str = dumps(meta, serializer="json")[2]  # ASCII only: all characters may pass SQS
    size = message_bytes(body, str(meta["task_id"]))
    if size > MAX_MESSAGE_BYTES:
        raise ResultTooLarge(
            f"the result of task {meta['task_id']} takes {size:,} bytes as a message, SQS takes "
            f"{MAX_MESSAGE_BYTES:,}: store it elsewhere and return where it is"
        )
    return body


def message_bytes(body: str, task_id: str) -> int:
    """What SQS counts of a result's message: its body, and names, types and values of its attributes."""
    counted = sum(
        len(name) + len(value["DataType"]) + len(value["StringValue"].encode())
        for name, value in attributes(task_id).items()
    )
    return counted + len(body.encode())


def decode(body: str, correlation_id: str | None) -> Meta:
    """The result that a message holds: Celery's own form, or an envelope of Lovage's.

    Failures are left as they were sent, as ``exc_type``, ``exc_message`` and ``exc_module``.
    Raises :exc:`~lovage_celery.NotAResult` for all else.
    """
    try:
        value = json.loads(body)
    except Exception as error:  # hooks for rich types raise what they like
        raise NotAResult(f"it is no JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise NotAResult("it is no JSON object")
    is_envelope = "task_id" not in value and isinstance(value.get("id"), str)
    meta = _from_envelope(value, correlation_id) if is_envelope else value
    return _checked(meta, correlation_id)


def _checked(meta: Meta, correlation_id: str | None) -> Meta:
    task_id = meta.get("task_id") or correlation_id
    status = meta.get("status")
    if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_ID_CHARS:
        raise NotAResult("it says of no task: neither `task_id` nor the attribute `correlation_id`")
    if not isinstance(status, str) or not status:
        raise NotAResult("it has no `status`")
    if status in states.EXCEPTION_STATES and not _is_exception(meta.get("result")):
        raise NotAResult("its `result` is not the exception that its `status` promises")
    children = meta.get("children")
    if children is not None and not (isinstance(children, list) and all(map(_is_child, children))):
        raise NotAResult("its `children` are no results")
    traceback = meta.get("traceback")
    if traceback is not None and not isinstance(traceback, str):
        raise NotAResult("its `traceback` is no text")
    return {"result": None, "traceback": None, "children": None, **meta, "task_id": task_id}


def _is_exception(result: object) -> bool:
    return result is None or (
        isinstance(result, dict)
        and isinstance(result.get("exc_type"), str)
        and isinstance(result.get("exc_module"), str | None)
    )


def _is_child(child: object, depth: int = 0) -> bool:
    """Whether it is what ``AsyncResult.as_tuple`` makes: ``[[id, parent], children]``."""
    if depth > _MAX_NESTED_CHILDREN or not isinstance(child, list | tuple) or len(child) != 2:
        return False
    node, nested = child
    if isinstance(node, list | tuple):
        if len(node) != 2 or not isinstance(node[0], str):
            return False
        if node[1] is not None and not _is_child(node[1], depth + 1):
            return False
    elif not isinstance(node, str):
        return False
    return nested is None or (isinstance(nested, list) and all(_is_child(it, depth + 1) for it in nested))


def _from_envelope(envelope: dict[str, Any], correlation_id: str | None) -> Meta:
    """Lovage's own form (docs/operating.md, "Results") as Celery's."""
    status = str(envelope.get("status"))
    meta: Meta = {
        # A job's id is that of its task; one that came by another way is told by the attribute.
        "task_id": correlation_id or envelope["id"],
        "children": [],
        "date_done": envelope.get("finished_at"),
    }
    if status == "done":
        return {**meta, "status": states.SUCCESS, "result": _output(envelope)}
    error = envelope.get("error")
    if not isinstance(error, dict):
        error = {}
    kind, message, detail = (str(error.get(key) or "") for key in ("kind", "message", "detail"))
    if status in _REVOKED:
        failure = ("TaskRevokedError", "celery.exceptions", [message or status])
        return {**meta, "status": states.REVOKED, "result": _exception(*failure)}
    if status not in _FAILED:
        raise NotAResult("its `status` is neither of Celery's nor of Lovage's")
    # A limit of the operator's with a name of its own says more as what it is.
    name, module = _LIMIT_KINDS.get(status, (TaskFailed.__name__, TaskFailed.__module__))
    arguments = [kind or status, message] if name == TaskFailed.__name__ else [f"{kind or status}: {message}"]
    result = _exception(name, module, arguments)
    return {**meta, "status": states.FAILURE, "result": result, "traceback": detail or None}


def _output(envelope: dict[str, Any]) -> object:
    if "data" in envelope or "data_base64" not in envelope:
        return envelope.get("data")
    try:
        return base64.b64decode(envelope["data_base64"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise NotAResult("its `data_base64` is no base64") from None


def _exception(name: str, module: str, arguments: list[Any]) -> dict[str, Any]:
    return {"exc_type": name, "exc_module": module, "exc_message": arguments}
