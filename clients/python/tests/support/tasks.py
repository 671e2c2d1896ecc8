"""The tasks of the tests: for the worker, and for those who send them."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore
from celery.result import allow_join_result


class OddError(ValueError):
    """An exception of the tasks' own."""


def make(queue: str, **options: Any) -> Any:
    """An app with all tasks, whose messages go to that queue."""
    settings: dict[str, Any] = {"broker": "sqs://", "backend": "sqs://", **options}
    app = Celery("tasks", broker=settings.pop("broker"), backend=settings.pop("backend"), set_as_current=False)
    app.conf.update(
        task_default_queue=queue,
        # The defaults of 5.7 make a worker sleep for a second now and then.
        broker_transport_options={"polling_interval": 0.01, "wait_time_seconds": 2, "visibility_timeout": 60},
        worker_prefetch_multiplier=16,
        worker_enable_remote_control=False,
        task_track_started=False,
    )
    app.conf.update(settings)
    _define(app)
    return app


def _define(app: Any) -> None:
    @app.task(shared=False, name="tasks.double")
    def double(data: Any) -> Any:
        return data * 2

    @app.task(shared=False, name="tasks.add")
    def add(one: Any, other: Any) -> Any:
        return one + other

    @app.task(shared=False, name="tasks.echo")
    def echo(value: Any) -> Any:
        return value

    @app.task(shared=False, name="tasks.fails")
    def fails(text: str) -> None:
        raise OddError(text, 7)

    @app.task(shared=False, name="tasks.large")
    def large(size: int) -> str:
        return "x" * size

    @app.task(shared=False, name="tasks.reports", bind=True)
    def reports(self: Any, steps: int) -> str:
        for step in range(steps):
            self.update_state(state="PROGRESS", meta={"step": step})
            time.sleep(0.1)
        return "reported"

    @app.task(shared=False, name="tasks.tries_again", bind=True, max_retries=3)
    def tries_again(self: Any) -> int:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @app.task(shared=False, name="tasks.gives_way", bind=True)
    def gives_way(self: Any, value: int) -> Any:
        return self.replace(app.signature("tasks.double", (value,)))

    @app.task(shared=False, name="tasks.starts_two")
    def starts_two(value: int) -> str:
        for it in (value, value + 1):
            app.signature("tasks.double", (it,)).apply_async()
        return "started"

    @app.task(shared=False, name="tasks.waits")
    def waits(value: int) -> Any:
        with allow_join_result():
            return app.signature("tasks.double", (value,)).apply_async().get(timeout=20)

    @app.task(shared=False, name="tasks.not_json")
    def not_json() -> Any:
        return object()

    @app.task(shared=False, name="tasks.ignored")
    def ignored() -> None:
        raise Ignore

    @app.task(shared=False, name="tasks.not_kept", ignore_result=True)
    def not_kept() -> int:
        return 1


def _worker_app() -> Any:
    options: dict[str, Any] = {}
    if prefix := os.environ.get("LOVAGE_TEST_PREFIX"):
        options["result_backend_transport_options"] = {"queue_prefix": prefix}
    return make(os.environ.get("LOVAGE_TEST_QUEUE", "celery"), **options)


app = _worker_app()
