"""What README.md shows and says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import start_worker, stop, unique

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def actions(sid: str) -> set[str]:
    """What a policy of the README allows."""
    statements = [it for block in blocks("json") for it in json.loads(block)["Statement"]]
    allowed = next(it["Action"] for it in statements if it["Sid"] == sid)
    return set(allowed)


def test_the_example_runs_as_it_stands(sqs: Any, tmp_path: Path) -> None:
    queue_url = sqs.create_queue(QueueName=unique("processed"))["QueueUrl"]
    for block in blocks("python"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block.replace("<SQS_QUEUE_URL>", queue_url))
    assert {it.name for it in tmp_path.iterdir()} == {"tasks.py", "client.py"}

    worker = start_worker("", tmp_path / "log", app="tasks", directory=tmp_path)
    try:
        client = subprocess.run(
            [sys.executable, "client.py"],
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=90,
        )
    finally:
        stop(worker)
    assert client.returncode == 0, client.stderr
    [message] = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert message["Body"] == "42"
    assert client.stdout.strip() == message["MessageId"]


def test_the_permissions_are_those_that_are_used(lovage: Any, make_app: Callable[..., Any], sqs: Any) -> None:
    app = make_app(lovage.queue)
    used: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        # Batches need the permission of the single call.
        used.add("sqs:" + model.name.removesuffix("Batch"))

    mailbox = app.backend.mailbox
    mailbox.sqs.client.meta.events.register("before-call", note)
    result = app.signature("tasks.double", (2,)).apply_async()
    assert result.get(timeout=20) == 4
    url = sqs.get_queue_url(QueueName=mailbox.name)["QueueUrl"]
    mailbox.sqs.beat(url)
    app.signature("tasks.double", (2,)).apply_async().get(timeout=20)  # the first is deleted by now
    # The queue is removed by a client of its own.
    assert used | {"sqs:DeleteQueue"} == actions("Client")

    used.clear()
    assert mailbox.sqs.send(mailbox.name, "{}", "id")
    assert {it for it in used if it in {"sqs:GetQueueUrl", "sqs:SendMessage"}} == actions("Worker")
    assert used <= actions("Worker") | actions("Client")
