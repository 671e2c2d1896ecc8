"""What a client sees, when something that is no Celery at all answers by the wire format."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from typing import Any

import pytest
from celery import chord, group
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult, GroupResult, ResultSet
from conftest import until
from stand_in import done, meta

import lovage_celery
from lovage_celery.settings import DEFAULT_PREFIX
from lovage_celery.wire import MAX_MESSAGE_BYTES


def send(app: Any, task: str = "tasks.double", *args: Any, **options: Any) -> Any:
    return app.signature(task, args).apply_async(**options)


def test_a_result_comes_to_the_queue_that_reply_to_names(lovage: Any, lovage_app: Any) -> None:
    result = lovage_app.tasks["tasks.double"].delay(21)
    assert result.get(timeout=20) == 42
    assert result.state == "SUCCESS"
    assert result.ready() and result.successful()
    assert result.traceback is None and result.children == []
    name = lovage.seen[0]["properties"]["reply_to"]
    assert name == lovage_app.backend.mailbox.name
    assert name.startswith(DEFAULT_PREFIX) and len(name) <= 80


def test_the_first_signature_of_an_app_names_it_as_well(lovage: Any, lovage_app: Any) -> None:
    # Celery gives a chain's last step its `reply_to` before there is a backend.
    lovage.answer = None
    double = lovage_app.signature("tasks.double")
    (double.clone((1,)) | double.clone() | double.clone()).apply_async()
    message = until(lambda: lovage.seen and lovage.seen[0])
    named = [message["properties"]["reply_to"], *(it["options"]["reply_to"] for it in message["embed"]["chain"])]
    assert named == [lovage_app.backend.mailbox.name] * 3


def test_results_that_came_before_anybody_asks_are_kept(lovage: Any, lovage_app: Any) -> None:
    ids = [send(lovage_app, "tasks.double", it).id for it in range(5)]
    until(lambda: all(lovage_app.backend.mailbox.inbox.has_final(it) for it in ids))
    assert [lovage_app.AsyncResult(it).get(timeout=0) for it in ids] == [0, 2, 4, 6, 8]
    # Again, from another object.
    assert lovage_app.AsyncResult(ids[4]).get(timeout=0) == 8


def test_waiting_ends_at_its_timeout(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 1)
    assert result.state == "PENDING" and not result.ready()
    with pytest.raises(CeleryTimeout):
        result.get(timeout=0.2)
    with pytest.raises(CeleryTimeout):
        result.get(timeout=0)
    message = until(lambda: lovage.seen and lovage.seen[0])
    lovage.reply(message, done(message))
    assert result.get(timeout=20) == 2


def test_failures_are_exceptions(lovage: Any, lovage_app: Any) -> None:
    def fail(message: dict[str, Any]) -> Any:
        what = {"exc_type": "KeyError", "exc_module": "builtins", "exc_message": ["no such order"]}
        return meta(message, "FAILURE", what, traceback="Traceback (most recent call last): …")

    lovage.answer = fail
    result = send(lovage_app, "tasks.double", 1)
    with pytest.raises(KeyError, match="no such order"):
        result.get(timeout=20)
    assert result.failed() and result.state == "FAILURE"
    assert "most recent call last" in result.traceback
    told = result.get(propagate=False)
    assert isinstance(told, KeyError) and told.args == ("no such order",)


def test_what_is_no_exception_is_not_called(lovage: Any, lovage_app: Any) -> None:
    what = {"exc_type": "system", "exc_module": "os", "exc_message": "echo unsafe"}
    lovage.answer = lambda message: meta(message, "FAILURE", what)
    with pytest.raises(Exception, match="Expected an exception class") as raised:
        send(lovage_app, "tasks.double", 1).get(timeout=20)
    assert type(raised.value).__name__ == "SecurityError"


def test_envelopes_of_a_worker_that_knows_reply_to_only(lovage: Any, lovage_app: Any) -> None:
    answers: dict[int, dict[str, Any]] = {
        0: {"status": "done", "data": {"total": 42}},
        1: {"status": "failed", "error": {"kind": "bad_input", "message": "not a number", "detail": "at byte 3"}},
        2: {"status": "timed_out", "error": {"kind": "timeout", "message": "over 1000 ms"}},
        3: {"status": "revoked", "error": {"kind": "revoked", "message": "revoked"}},
        4: {"status": "done", "data_base64": "AP8=", "content_type": "application/octet-stream"},
    }

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        common = {"id": message["headers"]["id"], "task": "double", "tenant": "", "attempt": 1}
        return {**common, **answers[message["args"][0]], "finished_at": "2026-01-31T12:00:00.002Z"}

    lovage.answer = answer
    results = [send(lovage_app, "tasks.double", it) for it in range(5)]
    assert results[0].get(timeout=20) == {"total": 42}
    assert results[0].date_done.year == 2026
    with pytest.raises(lovage_celery.TaskFailed, match="bad_input: not a number") as failed:
        results[1].get(timeout=20)
    assert (failed.value.kind, failed.value.message) == ("bad_input", "not a number")
    assert results[1].traceback == "at byte 3"
    with pytest.raises(Exception, match="over 1000 ms") as late:
        results[2].get(timeout=20)
    assert type(late.value).__name__ == "TimeLimitExceeded"
    with pytest.raises(TaskRevokedError):
        results[3].get(timeout=20)
    assert results[3].state == "REVOKED"
    assert results[4].get(timeout=20) == b"\x00\xff"


def test_groups_are_joined_in_order(lovage: Any, lovage_app: Any) -> None:
    double = lovage_app.signature("tasks.double")
    result = group(double.clone((it,)) for it in range(25)).apply_async()
    assert isinstance(result, GroupResult)
    assert result.get(timeout=30) == [it * 2 for it in range(25)]
    assert result.ready() and result.successful() and result.completed_count() == 25
    assert result.join(timeout=5) == [it * 2 for it in range(25)]
    assert result.join_native(timeout=5) == [it * 2 for it in range(25)]
    both = ResultSet([result.results[3], send(lovage_app, "tasks.double", 50)])
    told: dict[str, Any] = {}
    both.get(timeout=20, callback=told.__setitem__)
    assert sorted(told.values()) == [6, 100]


def test_a_failure_ends_a_join_unless_it_is_asked_for_as_a_value(lovage: Any, lovage_app: Any) -> None:
    def answer(message: dict[str, Any]) -> Any:
        if message["args"][0] != 1:
            return done(message)
        return meta(message, "FAILURE", {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["one"]})

    lovage.answer = answer
    double = lovage_app.signature("tasks.double")
    result = group(double.clone((it,)) for it in range(3)).apply_async()
    with pytest.raises(ValueError, match="one"):
        result.get(timeout=20)
    values = result.get(timeout=20, propagate=False)
    assert values[0] == 0 and isinstance(values[1], ValueError) and values[2] == 4


def test_callbacks_are_told_without_anybody_waiting(lovage: Any, lovage_app: Any) -> None:
    told = threading.Event()
    values: list[Any] = []
    result = send(lovage_app, "tasks.double", 4)

    def then(ready: Any) -> None:
        values.append(ready.result)
        told.set()

    result.then(then)
    assert told.wait(20)
    assert values == [8]


def test_on_message_is_called_with_each_state_of_what_is_waited_for(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 4)
    other = send(lovage_app, "tasks.double", 5)
    until(lambda: len(lovage.seen) == 2)
    by_id = {message["headers"]["id"]: message for message in lovage.seen}
    mine = by_id[result.id]
    states: list[Any] = []

    def on_message(body: dict[str, Any]) -> None:
        states.append((body["task_id"], body["status"]))
        if body["status"] == "PROGRESS":
            lovage.reply(mine, done(mine))

    lovage.reply(by_id[other.id], done(by_id[other.id]))
    lovage.reply(mine, meta(mine, "PROGRESS", {"percent": 50}))
    assert result.get(timeout=20, on_message=on_message) == 8
    assert states == [(result.id, "PROGRESS"), (result.id, "SUCCESS")]


def test_progress_is_seen_and_does_not_come_after_the_end(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 4)
    message = until(lambda: lovage.seen and lovage.seen[0])
    lovage.reply(message, meta(message, "PROGRESS", {"percent": 50}))
    until(lambda: result.state == "PROGRESS")
    assert result.info == {"percent": 50} and not result.ready()
    lovage.reply(message, done(message))
    lovage.reply(message, meta(message, "PROGRESS", {"percent": 99}))
    lovage.reply(message, done(message))  # a duplicate
    assert result.get(timeout=20) == 8
    until(lambda: nothing_left(lovage, lovage_app))
    assert lovage_app.AsyncResult(result.id).state == "SUCCESS"


def nothing_left(lovage: Any, app: Any) -> bool:
    url = lovage.sqs.get_queue_url(QueueName=app.backend.mailbox.name)["QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = lovage.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return all(int(counts[name]) == 0 for name in names)


def test_messages_that_are_no_results_are_dropped(
    lovage: Any, lovage_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 21)
    message = until(lambda: lovage.seen and lovage.seen[0])
    name = message["properties"]["reply_to"]
    others = [
        "hello, this is secret",
        "[1, 2]",
        "{}",
        '{"id": "x", "status": "odd"}',
        '{"task_id": "x", "status": "FAILURE", "result": "text"}',
        '{"task_id": "x", "status": "SUCCESS", "children": [5]}',
        "[" * 50_000,
    ]
    with caplog.at_level(logging.WARNING, logger="lovage_celery"):
        for body in others:
            lovage.send(name, body)
        lovage.reply(message, done(message))
        assert result.get(timeout=20) == 42
        until(lambda: nothing_left(lovage, lovage_app))
    dropped = [it for it in caplog.records if "is dropped" in it.getMessage()]
    assert len(dropped) == len(others)
    assert "secret" not in caplog.text


def test_results_for_nobody_do_not_fill_the_memory(lovage: Any, make_app: Any) -> None:
    app = make_app(lovage.queue, result_backend_transport_options={"max_results": 10})
    results = [send(app, "tasks.double", it) for it in range(30)]
    until(lambda: len(lovage.seen) == 30)
    until(lambda: nothing_left(lovage, app))
    assert len(app.backend.mailbox.inbox) == 10
    assert sum(result.ready() for result in results) == 10


def test_forgotten_results_are_gone(lovage: Any, lovage_app: Any) -> None:
    result = send(lovage_app, "tasks.double", 1)
    assert result.get(timeout=20) == 2
    result.forget()
    assert result.state == "PENDING"
    assert len(lovage_app.backend.mailbox.inbox) == 0


def test_many_threads_share_one_queue(lovage: Any, lovage_app: Any) -> None:
    values: dict[int, Any] = {}

    def ask(number: int) -> None:
        results = [send(lovage_app, "tasks.double", number * 100 + it) for it in range(5)]
        values[number] = [result.get(timeout=30) for result in results]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert values == {number: [(number * 100 + it) * 2 for it in range(5)] for number in range(8)}
    assert {message["properties"]["reply_to"] for message in lovage.seen} == {lovage_app.backend.mailbox.name}


def test_rich_types_arrive_as_what_they_were(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = lambda message: meta(message, "SUCCESS", {"__type__": "decimal", "__value__": "1.50"})
    assert str(send(lovage_app, "tasks.double", 1).get(timeout=20)) == "1.50"


def test_children_are_results(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = lambda message: meta(
        message, "SUCCESS", 1, children=[[["child-1", None], None], [["grp", None], [[["c2", None], None]]]]
    )
    result = send(lovage_app, "tasks.double", 1)
    assert result.get(timeout=20) == 1
    assert isinstance(result.children[0], AsyncResult) and result.children[0].id == "child-1"
    assert isinstance(result.children[1], GroupResult) and result.children[1].results[0].id == "c2"


def test_an_ignored_result_makes_no_queue(lovage: Any, lovage_app: Any) -> None:
    result = send(lovage_app, "tasks.double", 1, ignore_result=True)
    assert result.get(timeout=0) is None
    assert not lovage_app.backend.mailbox.is_open


def test_chords_are_refused_with_the_reason(lovage_app: Any) -> None:
    double = lovage_app.signature("tasks.double")
    with pytest.raises(NotImplementedError, match="does not support chords"):
        chord([double.clone((1,)), double.clone((2,))], app=lovage_app)(double.clone())


def test_a_queue_that_was_removed_is_made_again(lovage: Any, make_app: Any) -> None:
    lovage_app = make_app(lovage.queue, result_backend_transport_options={"wait_seconds": 1})
    assert send(lovage_app, "tasks.double", 1).get(timeout=20) == 2
    name = lovage_app.backend.mailbox.name
    lovage.sqs.delete_queue(QueueUrl=lovage.sqs.get_queue_url(QueueName=name)["QueueUrl"])
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 4)

    def again() -> bool:
        urls = lovage.sqs.list_queues(QueueNamePrefix=name).get("QueueUrls", [])
        return bool(urls)

    until(again, 90)
    message = until(lambda: [it for it in lovage.seen if it["headers"]["id"] == result.id])[0]
    lovage.reply(message, done(message))
    assert result.get(timeout=30) == 8


def test_results_are_pickled_with_their_backend(lovage_app: Any) -> None:
    lovage_app.set_current()
    result = send(lovage_app, "tasks.double", 3)
    assert pickle.loads(pickle.dumps(result)).get(timeout=20) == 6


def test_what_keeps_results_from_coming_is_told_to_who_waits(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = None
    result = send(lovage_app, "tasks.double", 3)
    lovage_app.backend.mailbox.inbox.fail(PermissionError("not allowed"))
    begin = time.monotonic()
    with pytest.raises(lovage_celery.ResultQueueError, match="not allowed"):
        result.get(timeout=60)
    assert time.monotonic() - begin < 30


def test_the_largest_result_that_sqs_takes_arrives(lovage: Any, lovage_app: Any) -> None:
    lovage.answer = lambda message: meta(message, "SUCCESS", "x" * (MAX_MESSAGE_BYTES - 1000))
    assert len(send(lovage_app, "tasks.double", 1).get(timeout=30)) == MAX_MESSAGE_BYTES - 1000
