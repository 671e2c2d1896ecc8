"""What the backend is told: by its URL, by the app's broker, and by ``result_backend_transport_options``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from celery.exceptions import ImproperlyConfigured
from kombu import Connection

#: SQS's own limit on a queue's name.
MAX_NAME_CHARS = 80
#: A UUID in hex.
_UNIQUE_CHARS = 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")

DEFAULT_PREFIX = "lovage-reply-celery-"
DEFAULT_REGION = "us-east-1"  # as kombu has it

# Key, default, least, most. Seconds, but for what is kept in memory.
_NUMBERS = {
    "retention_seconds": (3600, 60, 1_209_600),
    "visibility_seconds": (30, 5, 43_200),
    "wait_seconds": (20, 1, 20),
    "heartbeat_seconds": (300, 10, 86_400),
    "max_results": (10_000, 1, 100_000_000),
    "max_bytes": (67_108_864, 1_048_576, 1 << 40),
}


def is_queue_name(name: object) -> bool:
    """Whether SQS could have a queue of that name. A URL is none."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Settings:
    """All that holds for one app. Credentials are kept out of its ``repr``."""

    prefix: str = DEFAULT_PREFIX
    retention_seconds: int = 3600
    visibility_seconds: int = 30
    wait_seconds: int = 20
    heartbeat_seconds: int = 300
    max_results: int = 10_000
    max_bytes: int = 67_108_864
    region: str | None = None
    endpoint_url: str | None = None
    use_ssl: bool = True
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    client_config: dict[str, Any] = field(default_factory=dict, repr=False)
    queue_attributes: dict[str, str] = field(default_factory=dict)
    queue_tags: dict[str, str] = field(default_factory=dict)

    def is_reply_queue(self, name: object) -> bool:
        """Whether results may be sent to what a message's ``reply_to`` says.

        Whoever sends tasks says it, so other queues than those of clients must be out of reach.
        """
        return is_queue_name(name) and str(name).startswith(self.prefix)

    @classmethod
    def of_app(cls, app: Any, url: str | None) -> Settings:
        """Those of a Celery app whose backend has this URL (``None`` or ``sqs://``: as the broker)."""
        own = dict(app.conf.get("result_backend_transport_options") or {})
        broker = _sqs_broker(app)
        connection = _connection(url, broker)
        options = {**(broker.transport_options if broker is not None else {}), **own}
        secure = options.get("is_secure")
        return cls(
            prefix=_prefix(own),
            **{key: _number(own, key) for key in _NUMBERS},
            region=options.get("region"),
            endpoint_url=_endpoint(connection, secure),
            use_ssl=True if secure is None else bool(secure),
            access_key_id=connection.userid if connection is not None else None,
            secret_access_key=connection.password if connection is not None else None,
            client_config=dict(options.get("client-config") or {}),
            queue_attributes={key: str(it) for key, it in _mapping(own, "queue_attributes").items()},
            queue_tags={key: str(it) for key, it in _mapping(own, "queue_tags").items()},
        )


def _sqs_broker(app: Any) -> Any:
    """The app's connection for sending (not connected), if it is one to SQS."""
    connection = app.connection_for_write()
    return connection if connection.transport_cls == "sqs" else None


def _connection(url: str | None, broker: Any) -> Any:
    if url is None or "://" not in url:
        return broker
    own = Connection(url)
    says_where = own.hostname is not None or own.userid is not None
    return own if says_where or broker is None else broker


def _endpoint(connection: Any, secure: Any) -> str | None:
    # As kombu does it: with a host in the URL, TLS only if asked for.
    if connection is None or not connection.hostname:
        return None
    port = f":{connection.port}" if connection.port else ""
    return f"{'https' if secure else 'http'}://{connection.hostname}{port}"


def _prefix(options: dict[str, Any]) -> str:
    prefix = options.get("queue_prefix", DEFAULT_PREFIX)
    longest = MAX_NAME_CHARS - _UNIQUE_CHARS
    if not is_queue_name(prefix) or len(prefix) > longest:
        raise ImproperlyConfigured(
            f"result_backend_transport_options: queue_prefix is {prefix!r}: "
            f"1 to {longest} letters, digits, hyphens and underscores are possible"
        )
    return str(prefix)


def _number(options: dict[str, Any], key: str) -> int:
    default, least, most = _NUMBERS[key]
    value = options.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ImproperlyConfigured(
            f"result_backend_transport_options: {key} is {value!r}: a whole number from {least} to {most} is possible"
        )
    return value


def _mapping(options: dict[str, Any], key: str) -> dict[str, Any]:
    value = options.get(key) or {}
    if not isinstance(value, dict):
        raise ImproperlyConfigured(f"result_backend_transport_options: {key} has to be a dict")
    return value
