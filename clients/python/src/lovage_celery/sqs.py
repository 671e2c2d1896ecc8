"""The calls of SQS that are made, with their errors told apart. Needs no more permissions than it has methods."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, NamedTuple

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .settings import DEFAULT_REGION, Settings
from .wire import CORRELATION_ID, attributes

#: The tag that says when a queue's client was last known to live, in seconds since 1970.
ALIVE_TAG = "lovage-alive"

_GONE = {
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDeletedRecently",
    "AWS.SimpleQueueService.QueueDeletedRecently",
}
# What no patience helps against.
_LASTING = {
    "AccessDenied",
    "AccessDeniedException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
}
# Some ten seconds of trying. A worker that then gives up has lost a result.
_PATIENT = {"mode": "standard", "total_max_attempts": 6}
# Waiting for a client that goes away must not keep a process from ending.
_HASTY = {"connect_timeout": 3, "read_timeout": 5, "retries": {"total_max_attempts": 1}}

_REMEMBERED_QUEUES = 1000
# A new queue may take a moment to be known everywhere.
_LOOKUP_PAUSES = (0.3, 0.7)
_ABSENT_SECONDS = 60.0


class Received(NamedTuple):
    """A message as it was taken from a queue."""

    message_id: str
    receipt: str
    body: str
    correlation_id: str | None
    sent_ms: int


def is_gone(error: Exception) -> bool:
    """Whether a call failed because there is no such queue (any more)."""
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _GONE


def is_lasting(error: Exception) -> bool:
    """Whether a call failed for a reason that only an operator can do something about."""
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code") in _LASTING
    # No credentials, no region, a configuration that makes no sense; but not a network that is away.
    return isinstance(error, BotoCoreError) and type(error).__name__ in {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "NoRegionError",
    }


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, ClientError | BotoCoreError) and not is_gone(error) and not is_lasting(error)


class Sqs:
    """A client of SQS for all threads of one process; made when it is first needed, anew after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.after_fork()

    def after_fork(self) -> None:
        """Forgets connections and locks, which are the parent's."""
        self._lock = threading.Lock()
        self._session: Any = None
        self._client: Any = None
        self._urls: OrderedDict[str, str] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()

    @property
    def client(self) -> Any:
        """boto3's client, which threads may share; making one is what they may not do at once."""
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def _make(self, **config: Any) -> Any:
        settings = self._settings
        if self._session is None:
            self._session = Session(
                region_name=settings.region,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
            )
        more = {} if settings.endpoint_url is None else {"endpoint_url": settings.endpoint_url}
        return self._session.client(
            "sqs",
            region_name=self._session.region_name or DEFAULT_REGION,
            use_ssl=settings.use_ssl,
            config=Config(**{"retries": _PATIENT, **settings.client_config, **config}),
            **more,
        )

    def create(self, name: str) -> str:
        """Makes a queue for results; answers its URL."""
        settings = self._settings
        answer = self.client.create_queue(
            QueueName=name,
            Attributes={
                "MessageRetentionPeriod": str(settings.retention_seconds),
                "VisibilityTimeout": str(settings.visibility_seconds),
                "ReceiveMessageWaitTimeSeconds": str(settings.wait_seconds),
                **settings.queue_attributes,
            },
            tags={**settings.queue_tags, ALIVE_TAG: str(int(time.time()))},
        )
        return str(answer["QueueUrl"])

    def beat(self, url: str) -> None:
        """Notes that the queue's client lives."""
        self.client.tag_queue(QueueUrl=url, Tags={ALIVE_TAG: str(int(time.time()))})

    def receive(self, url: str) -> list[Received]:
        """Waits for messages, for ``wait_seconds`` at most; up to ten."""
        answer = self.client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=self._settings.wait_seconds,
            AttributeNames=["SentTimestamp"],
            MessageAttributeNames=[CORRELATION_ID],
        )
        return [_received(message) for message in answer.get("Messages", ())]

    def delete(self, url: str, messages: list[Received]) -> int:
        """Deletes up to ten messages; answers of how many SQS said that it could not."""
        entries = [{"Id": str(i), "ReceiptHandle": it.receipt} for i, it in enumerate(messages)]
        answer = self.client.delete_message_batch(QueueUrl=url, Entries=entries)
        return len(answer.get("Failed", ()))

    def remove(self, url: str) -> None:
        """Removes a queue, with little patience."""
        with self._lock:
            client = self._make(**_HASTY)
        client.delete_queue(QueueUrl=url)

    def send(self, name: str, body: str, task_id: str) -> bool:
        """Sends a result to the queue of that name; answers whether there is one."""
        url = self._url(name)
        if url is None:
            return False
        try:
            self.client.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes(task_id))
        except ClientError as error:
            if not is_gone(error):
                raise
            with self._lock:
                self._urls.pop(name, None)
                _keep(self._absent, name, time.monotonic())
            return False
        return True

    def _url(self, name: str) -> str | None:
        with self._lock:
            url = self._urls.get(name)
            since = self._absent.get(name)
        if url is not None:
            return url
        if since is not None and time.monotonic() - since < _ABSENT_SECONDS:
            return None
        for pause in (*_LOOKUP_PAUSES, None):
            try:
                url = str(self.client.get_queue_url(QueueName=name)["QueueUrl"])
            except ClientError as error:
                if not is_gone(error):
                    raise
                if pause is not None:
                    time.sleep(pause)
            else:
                with self._lock:
                    _keep(self._urls, name, url)
                return url
        with self._lock:
            _keep(self._absent, name, time.monotonic())
        return None


def _keep(cache: OrderedDict[str, Any], name: str, value: Any) -> None:
    cache[name] = value
    cache.move_to_end(name)
    while len(cache) > _REMEMBERED_QUEUES:
        cache.popitem(last=False)


def _received(message: dict[str, Any]) -> Received:
    correlation = message.get("MessageAttributes", {}).get(CORRELATION_ID, {}).get("StringValue")
    sent = str(message.get("Attributes", {}).get("SentTimestamp", ""))
    return Received(
        message_id=str(message.get("MessageId", "?")),
        receipt=message["ReceiptHandle"],
        body=str(message.get("Body", "")),
        correlation_id=correlation if isinstance(correlation, str) else None,
        sent_ms=int(sent) if sent.isdecimal() else 0,
    )
