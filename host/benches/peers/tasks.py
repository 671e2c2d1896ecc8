"""The task that all workers of the comparison run: it does nothing, and nobody wants its result."""

import os
from urllib.parse import urlparse

from celery import Celery

endpoint = urlparse(os.environ["AWS_ENDPOINT_URL"])
app = Celery("tasks", broker=f"sqs://test:test@{endpoint.hostname}:{endpoint.port}//")
app.conf.update(
    broker_transport_options={
        "region": os.environ["AWS_REGION"],
        "is_secure": False,
        "wait_time_seconds": 1,
        **({"polling_interval": 0.01} if os.environ.get("TUNED") else {}),
    },
    task_default_queue=os.environ["QUEUE"],
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    **({"worker_prefetch_multiplier": 64} if os.environ.get("TUNED") else {}),
)


@app.task(name="tasks.echo", ignore_result=True)
def echo(value):
    return value
