"""A client's queue is there as long as the client, and no longer."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SUPPORT, start_worker, stop, unique, until

from lovage_celery.cleanup import main as cleanup
from lovage_celery.settings import DEFAULT_PREFIX
from lovage_celery.sqs import ALIVE_TAG

Names = Callable[[str], set[str]]


def client(which: str, queue: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SUPPORT / "clients.py"), which, queue]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SUPPORT, start_new_session=True)


@pytest.mark.parametrize(
    ("which", "code", "queues"),
    [("ends", 0, 1), ("fails", 3, 1), ("forks", 0, 3), ("multiplies", 0, 2), ("greenlets", 0, 1)],
)
def test_queues_are_removed_when_a_process_ends(
    lovage: Any, queue_names: Names, which: str, code: int, queues: int
) -> None:
    process = client(which, lovage.queue)
    said = process.communicate(timeout=90)[0].split()
    assert process.returncode == code
    assert len(set(said)) == queues
    assert {message["properties"]["reply_to"] for message in lovage.seen} == set(said)
    assert not queue_names(DEFAULT_PREFIX) & set(said)


def test_a_queue_is_removed_when_its_app_is_closed(lovage: Any, make_app: Any, queue_names: Names) -> None:
    app = make_app(lovage.queue)
    assert not queue_names(app.backend.mailbox.name), "it is made on first use only"
    with app:
        result = app.signature("tasks.double", (2,)).apply_async()
        assert result.get(timeout=20) == 4
        name = app.backend.mailbox.name
        assert queue_names(name) == {name}
    assert not queue_names(name)
    # What came is still known, and the app can be used again.
    assert app.AsyncResult(result.id).get(timeout=0) == 4
    assert app.signature("tasks.double", (3,)).apply_async().get(timeout=20) == 6
    assert app.backend.mailbox.name != name


def test_a_queue_has_what_it_needs(lovage: Any, lovage_app: Any, sqs: Any) -> None:
    lovage_app.signature("tasks.double", (2,)).apply_async().get(timeout=20)
    url = sqs.get_queue_url(QueueName=lovage_app.backend.mailbox.name)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["MessageRetentionPeriod"] == "3600"
    assert attributes["VisibilityTimeout"] == "30"
    assert abs(int(sqs.list_queue_tags(QueueUrl=url)["Tags"][ALIVE_TAG]) - time.time()) < 60


def test_a_living_client_says_so(lovage: Any, lovage_app: Any, sqs: Any) -> None:
    lovage_app.signature("tasks.double", (2,)).apply_async().get(timeout=20)
    url = sqs.get_queue_url(QueueName=lovage_app.backend.mailbox.name)["QueueUrl"]
    sqs.tag_queue(QueueUrl=url, Tags={ALIVE_TAG: "1000"})
    lovage_app.backend.mailbox.sqs.beat(url)
    assert int(sqs.list_queue_tags(QueueUrl=url)["Tags"][ALIVE_TAG]) > 1000


def test_an_app_that_nobody_has_any_more_leaves_no_queue(lovage: Any, make_app: Any, queue_names: Names) -> None:
    import tasks

    app = tasks.make(lovage.queue)
    result = app.signature("tasks.double", (2,)).apply_async()
    assert result.get(timeout=20) == 4
    name = app.backend.mailbox.name
    del app, result

    def gone() -> bool:
        gc.collect()
        return not queue_names(name)

    until(gone, 20)


def test_what_a_killed_client_left_is_cleaned_up(
    lovage: Any, lovage_app: Any, sqs: Any, queue_names: Names, capsys: pytest.CaptureFixture[str]
) -> None:
    process = client("hangs", lovage.queue)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()
    assert queue_names(name) == {name}
    lovage_app.signature("tasks.double", (2,)).apply_async().get(timeout=20)
    alive = lovage_app.backend.mailbox.name
    foreign = unique(DEFAULT_PREFIX + "foreign")
    sqs.create_queue(QueueName=foreign)

    arguments = ["cleanup", "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "--region", "us-east-1"]
    assert cleanup([*arguments, "--idle", "3600"]) == 0
    assert queue_names(name) == {name}, "it may be in use"

    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    sqs.tag_queue(QueueUrl=url, Tags={ALIVE_TAG: str(int(time.time()) - 4000)})
    assert cleanup([*arguments, "--idle", "3600", "--dry-run"]) == 0
    assert queue_names(name) == {name}
    assert cleanup([*arguments, "--idle", "3600"]) == 0
    assert not queue_names(name)
    assert queue_names(alive) == {alive}
    assert queue_names(foreign) == {foreign}, "it has no tag of ours"
    assert f"{name}: removed, not in use for 40" in capsys.readouterr().out


def test_the_command_refuses_what_makes_no_sense() -> None:
    for wrong in (["--prefix", ""], ["--prefix", "a.b"], ["--idle", "1"]):
        with pytest.raises(SystemExit) as raised:
            cleanup(["cleanup", *wrong])
        assert raised.value.code == 2


def test_a_worker_has_queues_for_tasks_that_wait_only_and_leaves_none(
    make_app: Any, endpoint: str, queue_names: Names, tmp_path: Any
) -> None:
    queue, prefix = unique("jobs"), unique("left") + "-"
    process = start_worker(queue, tmp_path / "log", LOVAGE_TEST_PREFIX=prefix)
    try:
        app = make_app(queue, result_backend_transport_options={"queue_prefix": prefix})
        # What these send is for nobody.
        for _ in range(8):
            app.signature("tasks.starts_two", (1,)).apply_async(ignore_result=True, reply_to="of-somebody-else")
        for it in [app.signature("tasks.double", (it,)).apply_async() for it in range(8)]:
            it.get(timeout=40)
        assert queue_names(prefix) == {app.backend.mailbox.name}
        assert app.signature("tasks.waits", (21,)).apply_async().get(timeout=40) == 42
        assert len(queue_names(prefix)) == 2
    finally:
        stop(process)
    app.close()
    assert not queue_names(prefix)
