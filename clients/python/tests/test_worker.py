"""A real Celery worker whose backend is this one, and its client."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tasks
from celery import chain, group
from celery.exceptions import NotRegistered, TaskRevokedError
from conftest import start_worker, stop, unique, until
from kombu.exceptions import EncodeError

import lovage_celery


def task(app: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return app.signature(f"tasks.{name}", args, kwargs)


def test_values_come_back(app: Any) -> None:
    assert app.tasks["tasks.double"].delay(21).get(timeout=30) == 42
    assert app.tasks["tasks.double"].delay(data=21).get(timeout=30) == 42
    assert app.send_task("tasks.double", (21,)).get(timeout=30) == 42
    rich = {"price": Decimal("1.50"), "text": "grüße \u0000 🌱", "bytes": b"\x00\xff"}
    assert task(app, "echo", rich).delay().get(timeout=30) == rich


def test_exceptions_come_back_as_what_they_are(app: Any) -> None:
    result = task(app, "fails", "why").delay()
    with pytest.raises(tasks.OddError) as raised:
        result.get(timeout=30)
    assert raised.value.args == ("why", 7)
    assert "Traceback" in result.traceback and "tasks.py" in result.traceback
    assert result.failed()


def test_what_cannot_be_run_is_a_failure(app: Any) -> None:
    with pytest.raises(TypeError):
        app.send_task("tasks.double", (1, 2, 3)).get(timeout=30)
    with pytest.raises(NotRegistered):
        app.send_task("tasks.nobody_has_it").get(timeout=30)
    with pytest.raises(EncodeError):
        task(app, "not_json").delay().get(timeout=30)
    with pytest.raises(TaskRevokedError):
        task(app, "double", 1).apply_async(expires=datetime.now(timezone.utc) - timedelta(hours=1)).get(timeout=30)


def test_groups_and_chains(app: Any) -> None:
    assert group(task(app, "double", it) for it in range(20)).delay().get(timeout=60) == [it * 2 for it in range(20)]
    result = chain(task(app, "double", 1), task(app, "double"), task(app, "add", 5)).delay()
    assert result.get(timeout=30) == 9
    assert result.parent.get(timeout=30) == 4
    assert result.parent.parent.get(timeout=30) == 2


def test_an_error_stops_a_chain_and_reaches_who_waits_for_its_end(app: Any) -> None:
    result = chain(task(app, "fails", "early"), task(app, "double"), task(app, "double")).delay()
    with pytest.raises(tasks.OddError, match="early"):
        result.get(timeout=30)
    until(lambda: result.parent.parent.failed())


def test_links_answer_to_the_client_as_well(app: Any) -> None:
    result = task(app, "double", 2).apply_async(link=task(app, "double"), link_error=task(app, "echo"))
    assert result.get(timeout=30) == 4
    assert [child.get(timeout=30) for child in result.children] == [8]


def test_what_a_task_starts_answers_to_the_client(app: Any) -> None:
    result = task(app, "starts_two", 10).delay()
    assert result.get(timeout=30) == "started"
    assert [child.get(timeout=30) for child in result.children] == [20, 22]
    assert [value for _, value in result.collect(timeout=30)] == ["started", 20, 22]


def test_a_task_that_gives_way_is_answered_by_the_other(app: Any) -> None:
    assert task(app, "gives_way", 21).delay().get(timeout=30) == 42


def test_a_task_that_waits_for_another_gets_its_result(app: Any) -> None:
    assert task(app, "waits", 21).delay().get(timeout=40) == 42


def test_retries_answer_once(app: Any) -> None:
    states: list[str] = []
    result = task(app, "tries_again").delay()
    assert result.get(timeout=30, on_message=lambda body: states.append(body["status"])) == 1
    assert states[-1] == "SUCCESS" and set(states) <= {"RETRY", "SUCCESS"}


def test_progress_is_told(app: Any) -> None:
    steps: list[int] = []

    def on_message(body: dict[str, Any]) -> None:
        if body["status"] == "PROGRESS":
            steps.append(body["result"]["step"])

    assert task(app, "reports", 5).delay().get(timeout=30, on_message=on_message) == "reported"
    assert steps == sorted(steps) and steps


def test_a_result_that_is_too_large_is_a_failure_that_says_so(app: Any) -> None:
    with pytest.raises(lovage_celery.ResultTooLarge, match=r"2,000,\d+ bytes .* SQS takes 1,048,576"):
        task(app, "large", 2_000_000).delay().get(timeout=30)
    assert len(task(app, "large", 1_000_000).delay().get(timeout=30)) == 1_000_000


def test_ignored_results_are_not_sent(app: Any) -> None:
    marker = task(app, "double", 1).delay()
    ignored = app.tasks["tasks.not_kept"].delay()
    by_call = task(app, "double", 2).apply_async(ignore_result=True)
    assert ignored.get(timeout=0) is None and by_call.get(timeout=0) is None
    assert marker.get(timeout=30) == 2
    task(app, "double", 3).delay().get(timeout=30)
    assert not app.backend.is_cached(ignored.id) and not app.backend.is_cached(by_call.id)


def test_extended_results_are_read(make_app: Any, sqs: Any) -> None:
    # What `result_extended` adds comes from the worker; here a sender plays it.
    from stand_in import StandIn, meta

    stand_in = StandIn(sqs, unique("extended"))
    stand_in.answer = lambda message: meta(message, "SUCCESS", 1, name="tasks.double", args=[1], worker="w", retries=0)
    result = task(make_app(stand_in.queue), "double", 1).delay()
    assert result.get(timeout=20) == 1
    assert (result.name, result.args, result.worker, result.retries) == ("tasks.double", [1], "w", 0)
    stand_in.stop()


def test_a_client_that_is_gone_does_not_stop_a_worker(app: Any, make_app: Any, worker: str) -> None:
    gone = make_app(worker)
    gone.set_default()
    task(gone, "double", 1).delay().get(timeout=30)
    late = task(gone, "reports", 10).delay()
    gone.close()
    assert task(app, "double", 21).delay().get(timeout=30) == 42
    assert not late.ready()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools_answer_as_well(make_app: Any, endpoint: str, tmp_path: Path, pool: str) -> None:
    queue = unique(pool)
    process = start_worker(queue, tmp_path / "log", "--pool", pool)
    try:
        app = make_app(queue)
        assert task(app, "double", 21).delay().get(timeout=30) == 42
        with pytest.raises(tasks.OddError):
            task(app, "fails", "why").delay().get(timeout=30)
        result = task(app, "starts_two", 10).delay()
        assert result.get(timeout=30) == "started"
        assert [child.get(timeout=30) for child in result.children] == [20, 22]
    finally:
        stop(process)
