"""Plays Lovage's worker, by the text of README.md, "Wire", and nothing of the package's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any


class StandIn:
    """Takes Celery's messages from a queue, and answers each by what `answer` says."""

    def __init__(self, sqs: Any, queue: str) -> None:
        self.sqs = sqs
        self.queue = queue
        self.url = sqs.create_queue(QueueName=queue, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
        #: The messages that came: headers, properties, args, kwargs, embed.
        self.seen: list[dict[str, Any]] = []
        #: What to send for a message; sends nothing when it is `None`.
        self.answer: Callable[[dict[str, Any]], Any] | None = done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()  # its thread ends with the poll that is under way

    def send(self, reply_to: str, body: str, **attributes: str) -> None:
        """Sends a message to a client's queue."""
        url = self.sqs.get_queue_url(QueueName=reply_to)["QueueUrl"]
        told = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=told)

    def reply(self, message: dict[str, Any], result: Any) -> None:
        """Sends a result for a message: one of Celery's form, or any other object."""
        correlation = {"correlation_id": message["headers"]["id"], "content_type": "application/json"}
        if "task_id" not in result:
            correlation = {}  # an envelope, as a Lovage worker sends it that knows `reply_to` only
        self.send(message["properties"]["reply_to"], json.dumps(result), **correlation)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            except Exception:
                if self._stop.is_set():
                    return
                raise
            for raw in answer.get("Messages", ()):
                message = read(raw["Body"])
                self.seen.append(message)
                result = self.answer(message) if self.answer is not None else None
                if result is not None and not message["headers"]["ignore_result"]:
                    self.reply(message, result)
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=raw["ReceiptHandle"])


def read(body: str) -> dict[str, Any]:
    """A message of Celery's protocol 2."""
    envelope = json.loads(base64.b64decode(body))
    args, kwargs, embed = json.loads(base64.b64decode(envelope["body"]))
    return {
        "headers": envelope["headers"],
        "properties": envelope["properties"],
        "args": args,
        "kwargs": kwargs,
        "embed": embed,
    }


def meta(message: dict[str, Any], status: str, result: Any, **more: Any) -> dict[str, Any]:
    """A result in Celery's form."""
    return {
        "task_id": message["headers"]["id"],
        "status": status,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": "2026-01-31T12:00:00.002000+00:00",
        **more,
    }


def done(message: dict[str, Any]) -> dict[str, Any]:
    """Twice the first argument."""
    return meta(message, "SUCCESS", message["args"][0] * 2)
