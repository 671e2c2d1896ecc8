"""Rules that need no server."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from celery import Celery
from celery.backends.base import Backend
from celery.exceptions import ImproperlyConfigured

from lovage_celery.backend import SQSBackend
from lovage_celery.errors import NotAResult, ResultTooLarge, TaskFailed
from lovage_celery.inbox import Inbox
from lovage_celery.reply_to import _correct, _former
from lovage_celery.settings import DEFAULT_PREFIX, Settings
from lovage_celery.sqs import is_gone, is_lasting, is_transient
from lovage_celery.wire import MAX_MESSAGE_BYTES, attributes, decode, encode, message_bytes


def an_app(**options: Any) -> Any:
    broker, backend = options.pop("broker", "sqs://"), options.pop("backend", "sqs://")
    app = Celery("units", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(options)
    return app


def settings(**options: Any) -> Settings:
    app = an_app(**options)
    return Settings.of_app(app, app.conf.result_backend)


class Result:
    """As much of a result object as an inbox needs."""

    def __init__(self, task_id: str) -> None:
        self.id = task_id
        self._cache: Any = None
        self.told: list[Any] = []

    def _maybe_set_cache(self, meta: dict[str, Any]) -> None:
        self._cache = meta
        self.told.append(meta)


def meta(task_id: str, status: str = "SUCCESS", result: Any = None) -> dict[str, Any]:
    return {"task_id": task_id, "status": status, "result": result}


# The backend's names.


@pytest.mark.parametrize("name", ["sqs", "sqs://", "sqs://key:secret@localhost:9324//"])
def test_celery_knows_the_backend(name: str) -> None:
    app = an_app(backend=name)
    backend = app.backend
    assert isinstance(backend, SQSBackend) and isinstance(backend, Backend)
    assert "secret" not in backend.as_uri() and backend.as_uri().startswith("sqs://")
    assert app.backend is backend
    assert backend.as_uri(include_password=True) == (name if "://" in name else "sqs://")


def test_other_serializers_are_refused() -> None:
    for options in ({"result_serializer": "pickle"}, {"result_accept_content": ["yaml"]}):
        with pytest.raises(ImproperlyConfigured, match="JSON only"):
            _ = an_app(**options).backend


def test_groups_are_not_stored() -> None:
    backend = an_app().backend
    for call in (backend.restore_group, backend.delete_group, backend.reload_group_result):
        with pytest.raises(NotImplementedError):
            call("id")
    with pytest.raises(NotImplementedError):
        backend.save_group("id", None)
    with pytest.raises(NotImplementedError, match="does not support chords"):
        backend.ensure_chords_allowed()


# Settings.


def test_alone_it_does_as_the_broker() -> None:
    transport = {"region": "eu-central-1", "is_secure": True, "client-config": {"connect_timeout": 7}}
    told = settings(broker="sqs://key:se%2Fcret@sqs.example:9324//", broker_transport_options=transport)
    assert told.endpoint_url == "https://sqs.example:9324"
    assert (told.region, told.access_key_id, told.secret_access_key) == ("eu-central-1", "key", "se/cret")
    assert told.client_config == {"connect_timeout": 7}
    assert "se/cret" not in repr(told)


def test_a_host_in_the_url_is_plain_http_unless_asked_for_as_kombu_has_it() -> None:
    assert settings(broker="sqs://localhost:9324").endpoint_url == "http://localhost:9324"
    assert settings().endpoint_url is None


def test_its_own_url_and_options_come_first() -> None:
    told = settings(
        broker="sqs://key:secret@broker.example:1//",
        backend="sqs://other:word@own.example:2//",
        broker_transport_options={"region": "eu-central-1"},
        result_backend_transport_options={"region": "eu-west-1"},
    )
    assert (told.endpoint_url, told.access_key_id, told.region) == ("http://own.example:2", "other", "eu-west-1")


def test_another_broker_is_not_asked() -> None:
    told = settings(broker="amqp://guest:secret@localhost:5672//", broker_transport_options={"region": "x"})
    assert (told.endpoint_url, told.access_key_id, told.region) == (None, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_prefix": "a.b"},
        {"queue_prefix": ""},
        {"queue_prefix": "x" * 49},
        {"retention_seconds": 5},
        {"wait_seconds": 21},
        {"max_results": True},
        {"queue_tags": "text"},
    ],
)
def test_options_that_make_no_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=next(iter(wrong))):
        settings(result_backend_transport_options=wrong)


def test_results_are_sent_to_queues_of_clients_only() -> None:
    told = settings()
    assert told.is_reply_queue(DEFAULT_PREFIX + "0" * 32)
    for wrong in ("jobs", None, "", 7, DEFAULT_PREFIX + "x.fifo", DEFAULT_PREFIX + "x" * 80, "https://evil.example/q"):
        assert not told.is_reply_queue(wrong)


# The wire.


def test_a_result_is_celerys_json() -> None:
    sent = {**meta("id", result={"text": "ü\u0000"}), "children": [[["c", None], None]], "traceback": None}
    body = encode(sent)
    assert body.isascii() and json.loads(body) == sent
    assert decode(body, None) == sent
    assert attributes("id") == {
        "correlation_id": {"DataType": "String", "StringValue": "id"},
        "content_type": {"DataType": "String", "StringValue": "application/json"},
    }


def test_size_is_counted_as_sqs_counts_it() -> None:
    overhead = message_bytes(encode(meta("id", result="")), "id")
    assert len(encode(meta("id", result="x" * (MAX_MESSAGE_BYTES - overhead)))) > 0
    with pytest.raises(ResultTooLarge, match="1,048,577 bytes"):
        encode(meta("id", result="x" * (MAX_MESSAGE_BYTES - overhead + 1)))


def test_the_body_says_whose_result_it_is_else_the_attribute() -> None:
    assert decode('{"task_id": "a", "status": "SUCCESS"}', "b")["task_id"] == "a"
    assert decode('{"status": "SUCCESS"}', "b")["task_id"] == "b"
    assert decode('{"id": "a", "status": "done", "data": 1}', "b")["task_id"] == "b"


@pytest.mark.parametrize("status", ["failed", "rejected", "crashed", "timed_out", "expired", "revoked"])
def test_an_envelope_may_lack_its_error(status: str) -> None:
    told = decode(json.dumps({"id": "a", "status": status}), None)
    assert told["status"] in {"FAILURE", "REVOKED"} and told["result"]["exc_type"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "null",
        "[]",
        "{}",
        '{"status": "SUCCESS"}',
        '{"task_id": 5, "status": "SUCCESS"}',
        '{"task_id": "", "status": "SUCCESS"}',
        '{"task_id": "%s", "status": "SUCCESS"}' % ("x" * 8193),
        '{"task_id": "a"}',
        '{"task_id": "a", "status": 5}',
        '{"task_id": "a", "status": "FAILURE", "result": "text"}',
        '{"task_id": "a", "status": "FAILURE", "result": {"exc_type": 5}}',
        '{"task_id": "a", "status": "RETRY", "result": {"exc_type": "A", "exc_module": 5}}',
        '{"task_id": "a", "status": "SUCCESS", "children": {}}',
        '{"task_id": "a", "status": "SUCCESS", "children": ["a"]}',
        '{"task_id": "a", "status": "SUCCESS", "children": [[["a", 5], null]]}',
        '{"task_id": "a", "status": "SUCCESS", "children": [[["a", null], [5]]]}',
        '{"task_id": "a", "status": "SUCCESS", "traceback": 5}',
        '{"task_id": "a", "status": "SUCCESS", "result": %s}' % ("9" * 5000),
        '{"task_id": "a", "status": "SUCCESS", "result": {"__type__": "decimal", "__value__": "x"}}',
        '{"id": "a", "status": "SUCCESS"}',
        '{"id": "a", "status": ["done"]}',
        '{"id": "a", "status": "done", "data_base64": "%"}',
        '{"id": "a", "status": "done", "data_base64": 5}',
        "[" * 100_000,
    ],
)
def test_all_else_is_no_result(body: str) -> None:
    with pytest.raises(NotAResult):
        decode(body, None)


def test_deep_children_are_refused() -> None:
    child: Any = ["a", None]
    for _ in range(200):
        child = [["a", child], None]
    with pytest.raises(NotAResult):
        decode(json.dumps({**meta("a"), "children": [child]}), None)


def test_a_failed_task_says_why() -> None:
    error = TaskFailed("bad_input", "no number")
    assert str(error) == "bad_input: no number" and TaskFailed(*error.args).kind == "bad_input"
    assert str(TaskFailed("crashed")) == "crashed"


def test_errors_of_sqs_are_told_apart() -> None:
    def of(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code}}, "SendMessage")

    error: Exception
    for error in (of("QueueDoesNotExist"), of("AWS.SimpleQueueService.NonExistentQueue")):
        assert is_gone(error) and not is_lasting(error) and not is_transient(error)
    for error in (of("AccessDenied"), NoCredentialsError()):
        assert is_lasting(error) and not is_transient(error)
    for error in (of("ServiceUnavailable"), EndpointConnectionError(endpoint_url="x")):
        assert is_transient(error)
        assert an_app().backend.exception_safe_to_retry(error)
    assert not is_transient(ValueError())


# The inbox.


def test_the_latest_word_wins_and_the_last_word_stays() -> None:
    inbox = Inbox(10, 1000)
    inbox.put(meta("a", "PROGRESS", 2), 1, sent_ms=2)
    inbox.put(meta("a", "PROGRESS", 1), 1, sent_ms=1)
    assert (inbox.get("a") or {})["result"] == 2
    inbox.put(meta("a", "FAILURE"), 1, sent_ms=3)
    inbox.put(meta("a", "PROGRESS", 3), 1, sent_ms=4)
    assert (inbox.get("a") or {})["status"] == "FAILURE"
    inbox.put(meta("a", "SUCCESS", "first"), 1)
    inbox.put(meta("a", "SUCCESS", "second"), 1)
    inbox.put(meta("a", "FAILURE"), 1)
    assert (inbox.get("a") or {})["result"] == "first"


def test_read_results_are_dropped_before_unread_ones() -> None:
    inbox = Inbox(3, 1000)
    for task_id in "abc":
        inbox.put(meta(task_id), 1)
    inbox.get("c")
    inbox.put(meta("d"), 1)
    assert [inbox.has_final(it) for it in "abcd"] == [True, True, False, True]
    inbox.put(meta("e"), 1)
    assert [inbox.has_final(it) for it in "abcde"] == [False, True, False, True, True]


def test_memory_is_bounded_in_bytes_as_well() -> None:
    inbox = Inbox(100, 1000)
    for number in range(50):
        inbox.put(meta(str(number)), 300)
    assert len(inbox) == 3
    inbox.put(meta("huge"), 5000)
    assert len(inbox) == 1 and inbox.has_final("huge")


def test_each_result_object_is_told_once_and_before_waiters_wake() -> None:
    inbox = Inbox(10, 1000)
    early, again, weak = Result("a"), Result("a"), Result("b")
    for it in (early, again):
        inbox.watch(it, weak=False)
    inbox.watch(weak, weak=True)
    with inbox.waiter(["a", "b"], wants_messages=True) as waiter:
        inbox.put(meta("a", "STARTED"), 1)
        assert waiter.event.is_set() and waiter.done() == [] and not early.told
        inbox.put(meta("a"), 1)
        inbox.put(meta("a"), 1)
        assert waiter.done() == ["a"] and waiter.remaining == {"b"}
        assert [it["status"] for it in waiter.messages()] == ["STARTED", "SUCCESS"]
    del weak
    gc.collect()
    inbox.put(meta("b"), 1)
    assert len(early.told) == len(again.told) == 1
    late = Result("a")
    inbox.watch(late, weak=False)
    assert len(late.told) == 1
    assert not inbox._watchers and not inbox._waiters


def test_a_callback_that_raises_disturbs_nobody() -> None:
    class Raises(Result):
        def _maybe_set_cache(self, meta: dict[str, Any]) -> None:
            raise RuntimeError("mine")

    inbox, other = Inbox(10, 1000), Result("a")
    inbox.watch(Raises("a"), weak=False)
    inbox.watch(other, weak=False)
    inbox.put(meta("a"), 1)
    assert other.told


# `reply_to`.


def test_former_names_are_replaced_wherever_a_message_carries_them() -> None:
    _former["former"] = lambda: "real"
    try:
        sent: Any = ([{"options": {"reply_to": "former"}}], {"kwargs": {"body": {"options": {"reply_to": "former"}}}})
        sent[0].append({"options": {"reply_to": "other"}, "itself": sent[0]})
        _correct(sent)
        assert sent[0][0]["options"]["reply_to"] == "real"
        assert sent[0][1]["options"]["reply_to"] == "other"
        assert sent[1]["kwargs"]["body"]["options"]["reply_to"] == "real"
    finally:
        del _former["former"]


def test_all_threads_and_backends_of_an_app_say_one_name() -> None:
    app = an_app()
    before = app.thread_oid
    name = app.backend.mailbox.name
    names: list[str] = []
    thread = threading.Thread(target=lambda: names.append(app.thread_oid))
    thread.start()
    thread.join()
    assert [app.thread_oid, SQSBackend(app, url="sqs://").mailbox.name, *names] == [name] * 3
    assert before != name and _former[before]() == name
    app._local.oid = "late"  # as a thread does that was in the midst of it
    assert app.thread_oid == name and _former["late"]() == name
    app.close()
    assert before not in _former and "late" not in _former


def test_apps_do_not_share_a_queue() -> None:
    assert an_app().backend.mailbox.name != an_app().backend.mailbox.name
