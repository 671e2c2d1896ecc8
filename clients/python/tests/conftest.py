"""A local AWS for all tests, a Celery worker that uses the package, and a stand-in for Lovage's worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
os.environ.update(ENVIRONMENT)
os.environ.pop("AWS_PROFILE", None)


def unique(what: str) -> str:
    """A name that no other test has."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def until(condition: Callable[[], Any], seconds: float = 30, what: str = "what a test waits for") -> Any:
    """Waits for a condition; answers its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def stop(process: subprocess.Popen[Any]) -> None:
    """Ends a process of ours, and those that it has started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local AWS, which every client of this process and its children finds."""
    program = os.environ.get("LOVAGE_MINISTACK", "")
    if not Path(program).is_file():
        pytest.fail("LOVAGE_MINISTACK has to name the program ministack; clients/python/test.sh sees to that")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("ministack") / "log"
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "MINISTACK_REGION": "us-east-1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        if process.poll() is not None:
            pytest.fail(f"ministack ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/_ministack/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        until(healthy, 60, "ministack's answer")
        os.environ["AWS_ENDPOINT_URL"] = address
        yield address
    finally:
        os.environ.pop("AWS_ENDPOINT_URL", None)
        stop(process)


@pytest.fixture(scope="session")
def sqs(endpoint: str) -> Any:
    """boto3's own client, for what tests look at."""
    return boto3.client("sqs", endpoint_url=endpoint)


@pytest.fixture(scope="session")
def queue_names(sqs: Any) -> Callable[[str], set[str]]:
    """The names of all queues that begin so."""

    def names(prefix: str) -> set[str]:
        urls = sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])
        return {name for url in urls if (name := url.rsplit("/", 1)[-1]).startswith(prefix)}

    return names


@pytest.fixture
def make_app(endpoint: str) -> Iterator[Callable[..., Any]]:
    """Makes apps with the tasks of support/tasks.py, which are closed after the test."""
    import tasks

    apps: list[Any] = []

    def make(queue: str, **options: Any) -> Any:
        app = tasks.make(queue, **options)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def start_worker(
    queue: str, log: Path, *arguments: str, directory: Path = SUPPORT, app: str = "tasks:app", **environment: str
) -> subprocess.Popen[bytes]:
    """A real Celery worker, ready for tasks of that queue."""
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO"]
    # Workers that talk to each other would only make tests slow.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-c", "2"] if directory == SUPPORT else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *quiet, *arguments],
            cwd=directory,
            env={**os.environ, "LOVAGE_TEST_QUEUE": queue, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the worker ended: {log.read_text()[-4000:]}")
        return b" ready." in log.read_bytes()

    until(ready, 60, "a Celery worker that is ready")
    return process


@pytest.fixture(scope="session")
def worker(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Celery worker with the package as its backend; its queue's name."""
    queue = unique("jobs")
    log = tmp_path_factory.mktemp("worker") / "log"
    process = start_worker(queue, log)
    try:
        yield queue
    finally:
        stop(process)
        if os.environ.get("LOVAGE_TEST_LOG"):
            print(log.read_text())


@pytest.fixture
def app(make_app: Callable[..., Any], worker: str) -> Any:
    """A client of the Celery worker."""
    return make_app(worker)


@pytest.fixture
def lovage(sqs: Any) -> Iterator[Any]:
    """What plays Lovage's worker, with a queue of its own."""
    from stand_in import StandIn

    stand_in = StandIn(sqs, unique("lovage"))
    yield stand_in
    stand_in.stop()


@pytest.fixture
def lovage_app(make_app: Callable[..., Any], lovage: Any) -> Any:
    """A client of the stand-in."""
    return make_app(lovage.queue)
