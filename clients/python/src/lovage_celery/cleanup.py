"""Removes the queues that clients left behind: those that were killed, or whose machine went away.

A living client tags its queue with the time every ``heartbeat_seconds``. Queues without that tag are left alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

from boto3.session import Session

from .settings import DEFAULT_PREFIX, DEFAULT_REGION, is_queue_name
from .sqs import ALIVE_TAG, is_gone

DEFAULT_IDLE_SECONDS = 86_400
_LEAST_IDLE_SECONDS = 60


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m lovage_celery", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    cleanup = commands.add_parser("cleanup", help="remove queues for results whose client is gone")
    cleanup.add_argument("--prefix", default=DEFAULT_PREFIX, help="what their names begin with (%(default)s)")
    cleanup.add_argument(
        "--idle",
        type=int,
        default=DEFAULT_IDLE_SECONDS,
        metavar="SECONDS",
        help="since when the client must not have been heard of, at least (%(default)s); "
        "keep it well above the clients' heartbeat_seconds (300, where not set)",
    )
    cleanup.add_argument("--region", help="the region, if not the one that AWS's tools find")
    cleanup.add_argument("--endpoint-url", help="another endpoint than AWS's")
    cleanup.add_argument("--dry-run", action="store_true", help="only say which")
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; answers the exit code: 0 done, 1 some queues could not be removed, 2 misuse."""
    command = parser()
    asked = command.parse_args(arguments)
    if not is_queue_name(asked.prefix):
        command.error(f"--prefix is {asked.prefix!r}: no queue's name begins so")
    if asked.idle < _LEAST_IDLE_SECONDS:
        command.error(f"--idle is {asked.idle}: {_LEAST_IDLE_SECONDS} at least")
    session: Any = Session(region_name=asked.region)
    client = session.client("sqs", region_name=session.region_name or DEFAULT_REGION, endpoint_url=asked.endpoint_url)
    failed = 0
    for url in _queues(client, asked.prefix):
        try:
            what = _treat(client, url, asked.idle, asked.dry_run)
        except Exception as error:
            if is_gone(error):
                continue
            failed += 1
            print(f"{_name(url)}: {error}", file=sys.stderr)
        else:
            print(f"{_name(url)}: {what}")
    return 1 if failed else 0


def _queues(client: Any, prefix: str) -> Iterator[str]:
    for page in client.get_paginator("list_queues").paginate(
        QueueNamePrefix=prefix, PaginationConfig={"PageSize": 1000}
    ):
        # Not every server filters.
        yield from (url for url in page.get("QueueUrls", ()) if _name(url).startswith(prefix))


def _treat(client: Any, url: str, idle: int, dry_run: bool) -> str:
    said = client.list_queue_tags(QueueUrl=url).get("Tags", {}).get(ALIVE_TAG, "")
    if not said.isdecimal():
        return f"left, as it has no tag {ALIVE_TAG}"
    silent = int(time.time()) - int(said)
    if silent <= idle:
        return f"in use {max(silent, 0)} s ago"
    if dry_run:
        return f"would be removed, not in use for {silent} s"
    client.delete_queue(QueueUrl=url)
    return f"removed, not in use for {silent} s"


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]
