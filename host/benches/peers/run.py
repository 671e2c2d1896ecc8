"""Lovage beside Celery, on the same queue contents, one after the other: `make bench-peers`.

    run.py LOVAGE COMPONENTS VENVS [COUNT]

LOVAGE is the program, COMPONENTS the directory of the built guests, VENVS a directory with a Python environment for
each version of Celery (`5.6.3`, `5.7.0`) and one with ministack (`ministack`). Each worker in turn gets COUNT messages that
call a task that does nothing, as Celery's own client writes them. What is counted is messages that are gone from the queue.
The endpoint is a local one and takes CPU itself: read the ratios.
"""

import base64
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import boto3

HERE = Path(__file__).resolve().parent
LOVAGE, COMPONENTS, VENVS = (Path(arg).resolve() for arg in sys.argv[1:4])
COUNT = int(sys.argv[4]) if len(sys.argv) > 4 else 2000
# Celery 5.7 as it comes sleeps a second whenever its window is full: fewer messages, or it takes for ever.
FEW = max(60, COUNT // 20)
PATIENCE = 600
TICKS = os.sysconf("SC_CLK_TCK")


def message(number):
    """What `echo.delay(number)` sends."""
    task_id = str(uuid.UUID(int=number + 1))
    body = json.dumps([[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": "tasks.echo", "id": task_id, "shadow": None, "eta": None, "expires": None,
            "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id,
            "parent_id": None, "argsrepr": f"({number},)", "kwargsrepr": "{}", "origin": "bench",
            "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        },
        "properties": {
            "correlation_id": task_id, "reply_to": str(uuid.UUID(int=1)), "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "bench"}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return base64.b64encode(json.dumps(envelope).encode()).decode()


class Tree:
    """A process with its children: CPU time, memory."""

    def __init__(self, pid):
        self.root = pid
        self.peak = 0

    def pids(self):
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found, left = [], [self.root]
        while left:
            pid = left.pop()
            found.append(pid)
            left.extend(children.get(pid, []))
        return found

    def cpu(self):
        """Seconds, of children that are gone as well."""
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += sum(int(field) for field in fields[11:13])
        return total / TICKS

    def look(self):
        resident = 0
        for pid in self.pids():
            try:
                pages = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            resident += next(int(line.split()[1]) for line in pages.splitlines() if line.startswith("Pss:"))
        self.peak = max(self.peak, resident / 1024)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(endpoint, queue, **more):
    return {
        "PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true", "QUEUE": queue,
        "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", **more,
    }


def lovage(endpoint, queue, directory):
    metrics = free_port()
    config = f"""
broker.kind = "sqs"
components.paths = ["{COMPONENTS}/echo.wasm"]
components.cache_dir = "{VENVS}/cache"
worker.threads = 2
worker.metrics_address = "127.0.0.1:{metrics}"
log.level = "warn"
[queues.bench]
address = "{queue}"
format = "celery"
dead_letters = "discard"
"""
    Path(directory, "lovage.toml").write_text(config)
    # Compiled before, as it is in production from the second start on.
    subprocess.run([LOVAGE, "inspect", COMPONENTS / "echo.wasm"], cwd=directory, check=True,
                   env=environment(endpoint, queue), stdout=subprocess.DEVNULL)
    def check(count):
        """That it has run them: a message that was refused is gone from the queue as well."""
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/usage") as answer:
            attempts = sum(total["attempts"] for total in json.load(answer) if total["task"] == "echo")
        assert attempts == count, f"{attempts} attempts at {count} jobs"

    return [LOVAGE, "worker"], environment(endpoint, queue), check


def celery(version, pool, **more):
    def command(endpoint, queue, directory):
        python = VENVS / version / "bin/python"
        arguments = ["-m", "celery", "-A", "tasks", "worker", "-c", "2", "-P", pool, "-Q", queue, "-l", "error"]
        return [python, *arguments], environment(endpoint, queue, **more), lambda count: None
    return command


WORKERS = [
    ("Lovage", lovage, COUNT),
    ("Celery 5.6.3, defaults, prefork 2", celery("5.6.3", "prefork"), COUNT),
    ("Celery 5.6.3, tuned, prefork 2", celery("5.6.3", "prefork", TUNED="1"), COUNT),
    ("Celery 5.6.3, tuned, threads 2", celery("5.6.3", "threads", TUNED="1"), COUNT),
    ("Celery 5.7.0, defaults, prefork 2", celery("5.7.0", "prefork"), FEW),
    ("Celery 5.7.0, tuned, prefork 2", celery("5.7.0", "prefork", TUNED="1"), COUNT),
    ("Celery 5.7.0, tuned, threads 2", celery("5.7.0", "threads", TUNED="1"), COUNT),
]


def measure(sqs, endpoint, name, command, count):
    queue = f"bench-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=queue, Attributes={"VisibilityTimeout": "600"})["QueueUrl"]

    def left():
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(int(value) for value in sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values())

    def fill(first, number):
        for start in range(first, first + number, 10):
            stop = min(start + 10, first + number)
            entries = [{"Id": str(n), "MessageBody": message(n)} for n in range(start, stop)]
            assert not sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")

    with tempfile.TemporaryDirectory() as directory:
        arguments, env, check = command(endpoint, queue, directory)
        # Time to ready: from its start to its first message done.
        fill(0, 1)
        started = time.monotonic()
        worker = subprocess.Popen(arguments, env=env, cwd=directory, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        tree = Tree(worker.pid)
        try:
            while left():
                assert worker.poll() is None, worker.stderr.read().decode()
                assert time.monotonic() - started < PATIENCE, f"{name} does nothing"
                time.sleep(0.01)
            ready = time.monotonic() - started
            os.killpg(worker.pid, signal.SIGSTOP)
            fill(1, count)
            assert left() == count
            before = tree.cpu()
            begun = time.monotonic()
            os.killpg(worker.pid, signal.SIGCONT)
            while (now := left()) and time.monotonic() - begun < PATIENCE:
                tree.look()
                time.sleep(0.05)
            took = time.monotonic() - begun
            cpu = tree.cpu() - before
            done = count - now
            check(count + 1)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert done == count, f"{name}: {done} of {count} done"
    return {"worker": name, "jobs": count, "jobs_per_s": count / took, "cpu_ms_per_job": cpu * 1000 / count,
            "jobs_per_cpu_s": count / cpu, "peak_mb": tree.peak, "ready_s": ready}


def main():
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    stack = subprocess.Popen([VENVS / "ministack/bin/ministack"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True,
                             env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"})
    try:
        sqs = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test",
                           aws_secret_access_key="test")
        for _ in range(200):
            try:
                sqs.list_queues()
                break
            except Exception:  # noqa: BLE001 - it has yet to start
                time.sleep(0.1)
        found = [measure(sqs, endpoint, *worker) for worker in WORKERS]
    finally:
        os.killpg(stack.pid, signal.SIGKILL)
    cpus = os.cpu_count()
    print(f"{platform.machine()}, {cpus} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"{'worker':36} {'jobs':>6} {'jobs/s':>8} {'CPU ms/job':>11} {'memory MB':>10} {'ready s':>8} {'jobs per CPU s':>15}")
    ours = found[0]
    for it in found:
        times = ours["jobs_per_cpu_s"] / it["jobs_per_cpu_s"]
        beside = "" if it is ours else f"  Lovage ×{times:.1f}"
        print(f"{it['worker']:36} {it['jobs']:6} {it['jobs_per_s']:8.0f} {it['cpu_ms_per_job']:11.3f} {it['peak_mb']:10.0f} "
              f"{it['ready_s']:8.2f} {it['jobs_per_cpu_s']:15.0f}{beside}")
    Path(VENVS, "peers.json").write_text(json.dumps(found, indent=1))


main()
