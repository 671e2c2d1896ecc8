"""Odd messages, each sent to a worker of Celery's own and to one of Lovage's: what does a client learn?

    python table.py     prints, for each case, what the client of either has, as JSON

A message that is `alone` ends Celery's worker, so only Lovage's gets it. Both have the same, but for the cases in differences.json, which says what Lovage's client has and why.
"""

import base64
import bz2
import json
import lzma
import os
import sys
import time
import uuid
import zlib

import boto3
from celery.result import AsyncResult

from client import OTHER, QUEUE, app

RUN = os.environ.get("TABLE_RUN") or uuid.uuid4().hex[:8]
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CASES = {}


def case(name, **what):
    CASES[name] = what


def task_id(name, who):
    return f"{name}-{who}-{RUN}"


# ids: a function of the plain id
for name, make in {
    "unicode": lambda it: it + "ä🌿",
    "newline": lambda it: it + "\nb",
    "tab": lambda it: it + "\tb",
    "300 bytes": lambda it: it + "x" * 300,
    "1 KB": lambda it: it + "x" * 1000,
    "slashes": lambda it: "../" + it + "/%00",
    "quotes": lambda it: it + "'\"",
    "colon": lambda it: it + ":1",
}.items():
    case(f"id {name}", id=make)
case("id number", id=lambda it: int.from_bytes(it.encode()[:6], "big"))

# arguments
case("plain", args=[21])
case("keyword", kwargs={"data": 21})
case("args null", args=None)
case("args object", args={"a": 1})
case("args text", args="ab")
case("kwargs null", kwargs=None, args=[21])
case("kwargs list", kwargs=[], args=[21])
case("kwargs unknown", kwargs={"no_such": 1})
case("both", args=[21], kwargs={"data": 21})
case("too many", args=[1, 2, 3])
case("none at all", args=[])
case("big int", args=[10**30])
case("float", args=[1.5])
case("negative zero", args=[-0.0])
case("unicode value", args=["ä🌿"])
case("echo null", task="tasks.echo", args=[None])
case("echo nested", task="tasks.echo", args=[{"a": [1, {"b": [None, True]}]}])
case("echo decimal", task="tasks.echo", args=[{"__type__": "decimal", "__value__": "1.50"}])
case("echo unknown type", task="tasks.echo", args=[{"__type__": "mine", "__value__": 1}])
case("echo nan", task="tasks.echo", raw_args="[NaN]")
case("echo infinity", task="tasks.echo", raw_args="[[Infinity, -Infinity]]")
case("echo nan in text", task="tasks.echo", args=["NaN \" Infinity"])
case("echo 100 deep", task="tasks.echo", raw_args="[" + "[" * 100 + "]" * 100 + "]")
case("echo 600 deep", task="tasks.echo", raw_args="[" + "[" * 600 + "]" * 600 + "]")
case("echo 100,000 deep", task="tasks.echo", raw_args="[" + "[" * 100_000 + "]" * 100_000 + "]")
case("echo twice the same key", task="tasks.echo", raw_args='[{"a": 1, "a": 2}]')
case("echo lone surrogate", task="tasks.echo", raw_args='["\\ud800"]')
case("huge", task="tasks.echo", args=["x" * 300_000])

# headers
case("retries negative", headers={"retries": -1})
case("retries null", headers={"retries": None})
case("retries text", headers={"retries": "1"})
case("timelimit null", headers={"timelimit": None})
case("timelimit one", alone=True, headers={"timelimit": [5]})
case("timelimit zero", headers={"timelimit": [0, 0]})
case("timelimit text", headers={"timelimit": ["a", "b"]})
case("timelimit huge", headers={"timelimit": [10**12, None]})
case("eta past", headers={"eta": "2020-01-01T00:00:00+00:00"})
case("eta naive", headers={"eta": "2020-01-01T00:00:00"})
case("eta zulu", headers={"eta": "2020-01-01T00:00:00Z"})
case("eta offset", headers={"eta": "2020-01-01T00:00:00+05:30"})
case("eta micro", headers={"eta": "2020-01-01T00:00:00.123456+00:00"})
case("eta empty", alone=True, headers={"eta": ""})
case("eta word", headers={"eta": "soon"})
case("eta number", headers={"eta": 5})
case("expires past", headers={"expires": "2020-01-01T00:00:00+00:00"})
case("expires future", headers={"expires": "2120-01-01T00:00:00+00:00"})
case("expires naive future", headers={"expires": "2120-01-01T00:00:00"})
case("expires word", headers={"expires": "never"})
case("eta and expires past", headers={"eta": "2020-01-01T00:00:00Z", "expires": "2020-01-01T00:00:00Z"})
case("group null", headers={"group": None, "group_index": None})
case("group without chord", headers={"group": "g", "group_index": 3})
case("group index text", headers={"group_index": "x"})
case("root null", headers={"root_id": None, "parent_id": None})
case("shadow", headers={"shadow": "another.name"})
case("shadow null", headers={"shadow": None})
case("stamps", headers={"stamped_headers": ["s"], "stamps": {"s": [1]}})
case("stamps odd", headers={"stamped_headers": None, "stamps": None})
case("ignored", headers={"ignore_result": True}, pending=True)
case("ignore null", headers={"ignore_result": None})
case("argsrepr missing", without=["argsrepr", "kwargsrepr", "origin", "lang"])
case("few headers", only=["task", "id"])
case("custom header null", headers={"x-mine": None})
case("task unknown", task="tasks.no_such_task")
case("task null", headers={"task": None}, pending=True)
case("task dots", task="tasks.echo.")

# properties
case("priority null", properties={"priority": None})
case("priority huge", properties={"priority": 10**9})
case("priority text", properties={"priority": "x"})
case("reply_to missing", no_property="reply_to")
case("correlation missing", no_property="correlation_id")
case("expiration", properties={"expiration": "60000"})
case("expiration word", properties={"expiration": "x"})
case("body_encoding missing", plain_body=True)
case("not base64 outside", plain=True)

# content
case("pickle", content_type="application/x-python-serialize")
case("yaml", content_type="application/x-yaml")
case("unknown type", content_type="application/x-mine")
case("no type", alone=True, content_type=None)
case("encoding upper case", content_encoding="UTF-8")
case("encoding null", content_encoding=None)
case("encoding latin", content_encoding="iso-8859-1")
for method, pack in {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "gzip": zlib.compress,
    "xz": lzma.compress,
}.items():
    case(f"packed {method}", headers={"compression": method}, pack=pack)
case("packed unknown", headers={"compression": "application/x-mine"})
case("packed and is not", headers={"compression": "application/x-gzip"})
case("packed null", headers={"compression": None})

# workflows
ADD = {"task": "tasks.process_data", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
case("callback old style", embed={"callbacks": [{"task": "tasks.echo", "args": [], "kwargs": {}, "options": {}}]})
case("errback old style", task="tasks.fail", kwargs={"error": "fail"}, args=[],
     embed={"errbacks": [{"task": "tasks.echo", "args": [], "kwargs": {}, "options": {}}]})
case("callback unreadable", embed={"callbacks": [{"no": "task"}]})
case("callbacks text", embed={"callbacks": "x"})
case("chain empty", embed={"chain": []})
case("embed null", embed_whole=None)
case("embed empty", embed_whole={})
case("body of two", alone=True, parts=2)
case("map", task="celery.map", kwargs={"task": ADD, "it": [1, 2, 3]}, args=[])
case("starmap", task="celery.starmap", kwargs={"task": ADD, "it": [[1], [2]]}, args=[])
case("map of nothing", task="celery.map", kwargs={"task": ADD, "it": []}, args=[])
case("starmap of numbers", task="celery.starmap", kwargs={"task": ADD, "it": [1]}, args=[])
case("map of unknown", task="celery.map", kwargs={"task": {**ADD, "task": "tasks.no_such_task"}, "it": [1]}, args=[])
case("accumulate", task="celery.accumulate", args=[1, 2])
case("protocol 1", protocol=1)
case("protocol 1 bare", protocol=1, bare=True)

# ends
case("fails", task="tasks.fail", kwargs={"error": "fail"}, args=[])

def build(name, what, who):
    plain = task_id(name.replace(" ", "-").replace(",", "").replace("/", "-"), who)
    ident = what.get("id", lambda it: it)(plain)
    task = what.get("task", "tasks.process_data")
    headers = {
        "lang": "py", "task": task, "id": ident, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": ident, "parent_id": None,
        "argsrepr": "(21,)", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": False,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }
    headers.update(what.get("headers", {}))
    for gone in what.get("without", []):
        del headers[gone]
    if "only" in what:
        headers = {key: headers[key] for key in what["only"]}
    queue = {"celery": OTHER, "lovage": QUEUE}[who]
    properties = {
        "correlation_id": str(ident), "reply_to": str(uuid.uuid4()), "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0,
        "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
    }
    properties.update(what.get("properties", {}))
    properties.pop(what.get("no_property"), None)
    args = what.get("args", [21] if not what.get("kwargs") else [])
    embed = what.get("embed_whole", {**EMBED, **what.get("embed", {})}) if "embed_whole" in what else {
        **EMBED, **what.get("embed", {})}
    if what.get("protocol") == 1:
        fields = {"task": task, "id": ident, "args": args, "kwargs": {}}
        if not what.get("bare"):
            fields.update(retries=0, eta=None, expires=None, utc=True, taskset=None, chord=None, callbacks=None,
                          errbacks=None, timelimit=[None, None])
        headers = {}
        body = json.dumps(fields)
    else:
        parts = [json.dumps(args), json.dumps(what.get("kwargs", {})), json.dumps(embed)]
        if "raw_args" in what:
            parts[0] = what["raw_args"]
        body = "[" + ", ".join(parts[: what.get("parts", 3)]) + "]"
    packed = what.get("pack", lambda it: it)(body.encode())
    if what.get("plain_body"):
        del properties["body_encoding"]
        text = body
    else:
        text = base64.b64encode(packed).decode()
    envelope = json.dumps({
        "body": text, "content-encoding": what.get("content_encoding", "utf-8"),
        "content-type": what.get("content_type", "application/json"), "headers": headers, "properties": properties,
    })
    return ident, queue, envelope if what.get("plain") else base64.b64encode(envelope.encode()).decode()


def learned(ident):
    """What a client of Celery's has of a task."""
    result = AsyncResult(str(ident), app=app)
    try:
        meta = app.backend.get_task_meta(str(ident), cache=False)
        state, value = meta["status"], meta["result"]
    except Exception as error:  # noqa: BLE001 - such as SecurityError
        return {"state": "UNREADABLE", "value": repr(error)}
    found = {"state": state}
    if isinstance(value, BaseException):
        found["exception"] = type(value).__name__
        found["text"] = str(value)[:200]
        found["frames"] = (result.traceback or "").count('  File "')
    elif state == "SUCCESS":
        text = repr(value)
        found["value"] = text if len(text) < 300 else f"{len(text)} characters"
    if state in ("SUCCESS", "FAILURE", "REVOKED"):
        found["date_done"] = meta.get("date_done") is not None
        found["children"] = len(result.children or [])
    return found


def main():
    sqs = boto3.client("sqs")
    urls = {queue: sqs.get_queue_url(QueueName=queue)["QueueUrl"] for queue in (QUEUE, OTHER)}
    only = sys.argv[1:]
    ids = {}
    for name, what in CASES.items():
        if only and name not in only:
            continue
        for who in ("celery", "lovage"):
            ident, queue, text = build(name, what, who)
            ids[name, who] = ident
            if who == "celery" and what.get("alone"):
                continue
            sqs.send_message(QueueUrl=urls[queue], MessageBody=text)
    until = time.time() + float(os.environ.get("TABLE_WAIT", "60"))
    found, changed = {}, time.time()
    while time.time() < until:
        now = {key: learned(ident) for key, ident in ids.items()}
        if now != found:
            found, changed = now, time.time()
        waits = [key for key, it in now.items() if it["state"] not in ("SUCCESS", "FAILURE", "REVOKED", "UNREADABLE")]
        if not waits or time.time() - changed > 12:
            break
        time.sleep(0.5)
    print(json.dumps({
        name: {who: found[name, who] for who in ("celery", "lovage")} for name, who in ids if who == "celery"}))


if __name__ == "__main__":
    sys.setrecursionlimit(100_000)
    main()
