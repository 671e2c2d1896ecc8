"""A client of Celery's as it is: nothing in it knows of Lovage.

    python client.py SCENARIO         prints what the scenario found, as JSON
    celery -A client worker -Q other  a worker of Celery's own, for mixed workflows

Where SQS and the result backend are comes from the environment.
"""

import datetime
import decimal
import json
import os
import sys
import time
import uuid
from urllib.parse import urlparse

from celery import Celery, chain, chord, group
from celery.exceptions import TimeoutError
from celery.result import allow_join_result

ENDPOINT = urlparse(os.environ["AWS_ENDPOINT_URL"])
QUEUE = os.environ["CELERY_QUEUE"]
OTHER = os.environ.get("CELERY_OTHER_QUEUE", QUEUE)
WAIT = 60

app = Celery("tasks", broker=f"sqs://test:test@{ENDPOINT.hostname}:{ENDPOINT.port}//")
app.conf.update(
    result_backend=os.environ.get("CELERY_BACKEND"),
    result_backend_transport_options={"global_keyprefix": os.environ.get("CELERY_PREFIX", "")},
    broker_transport_options={
        "region": os.environ["AWS_REGION"],
        "is_secure": False,
        "wait_time_seconds": 1,
        "polling_interval": 0.05,
        "visibility_timeout": 30,
    },
    task_default_queue=QUEUE,
    task_routes={"tasks.py_*": {"queue": OTHER}},
    dynamodb_endpoint_url=os.environ["AWS_ENDPOINT_URL"],
    worker_enable_remote_control=False,
    result_compression=os.environ.get("CELERY_RESULT_COMPRESSION"),
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


# What Lovage's components serve, as a client declares it, and as Celery's own worker runs it where
# the two are compared.
class ToldToFail(Exception):
    pass


@app.task(name="tasks.process_data")
def process_data(data):
    return data * 2


@app.task(name="tasks.echo")
def echo(value):
    return value


@app.task(name="tasks.fail")
def fail(*_, error="retry", **how):
    raise ToldToFail("attempt 1 fails, as it was told to")


@app.task(name="tasks.steps")
def steps(steps, ms):
    raise NotImplementedError("it runs elsewhere")


@app.task(name="tasks.nobody")
def nobody():
    raise NotImplementedError("nobody serves it")


# What a worker of Celery's own serves.
@app.task(name="tasks.py_add")
def py_add(x, y=1):
    return x + y


@app.task(name="tasks.py_sum")
def py_sum(numbers):
    return sum(numbers)


@app.task(name="tasks.py_fail")
def py_fail(*_):
    raise ValueError("from Python")


@app.task(name="tasks.py_note")
def py_note(*args):
    """An errback: what it was called with can be asked for."""
    app.backend.client.set(f"note-{QUEUE}", json.dumps([str(arg) for arg in args]))


def get(result):
    return result.get(timeout=WAIT)


def failure(result):
    try:
        return {"value": get(result)}
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, is what is asked for
        # That of a task before it in the workflow reaches who waits sooner than its own.
        for _ in range(WAIT * 10):
            if result.ready():
                break
            time.sleep(0.1)
        return {
            "id": result.id,
            "type": type(error).__name__,
            "text": str(error),
            "state": result.state,
            "traceback": result.traceback,
        }


def calls():
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
    started = time.time()
    later = process_data.apply_async((4,), countdown=2)
    found = {
        "delay": get(process_data.delay(21)),
        "keyword": get(process_data.delay(data=21)),
        "text": get(process_data.delay("ab")),
        "big": str(get(process_data.delay(2**200))),
        "eta": get(process_data.apply_async((5,), eta=soon)),
        "expires": get(process_data.apply_async((6,), expires=300)),
        "expired": failure(process_data.apply_async((6,), expires=-10)),
        "priority": get(process_data.apply_async((7,), priority=3)),
        "headers": get(process_data.apply_async((8,), headers={"x-trace": "1"})),
        "several": get(app.send_task("tasks.echo", args=(1, 2, "three"))),
        "keywords": get(app.send_task("tasks.echo", kwargs={"a": 1, "b": [None]})),
        "nothing": get(app.send_task("tasks.echo")),
        "zlib": get(process_data.apply_async((list(range(50)),), compression="zlib"))[:3],
        "bzip2": get(process_data.apply_async((list(range(50)),), compression="bzip2"))[:3],
        "rich": get(echo.delay({
            "decimal": decimal.Decimal("1.50"),
            "uuid": uuid.UUID(int=7),
            "date": datetime.date(2026, 1, 2),
            "bytes": b"\x00\xff",
        })),
        "countdown": get(later),
        "countdown_seconds": time.time() - started,
        "timelimit": failure(app.send_task("tasks.sleep", args=({"ms": 20000},), time_limit=1)),
        "shadow": get(process_data.apply_async((9,), shadow="other")),
        "states": [],
    }
    ignored = process_data.apply_async((1,), ignore_result=True)
    get(process_data.delay(1))
    time.sleep(1)
    found["ignored"] = app.AsyncResult(ignored.id).state
    result = process_data.delay(10)
    get(result)
    found["meta"] = [result.state, result.ready(), result.successful(), result.children]
    return found


def failures():
    once = app.send_task("tasks.fail", kwargs={"times": 1, "after_ms": 10})
    return {
        "failed": failure(fail.delay(error="fail")),
        "rejected": failure(process_data.delay({"no": "number"})),
        "retried": get(once),
        "exhausted": failure(fail.delay(error="retry", after_ms=10)),
        "arguments": failure(app.send_task("tasks.process_data", args=(1, 2))),
    }


def workflows():
    echoes = lambda *values: [echo.s(value) for value in values]  # noqa: E731
    done = {
        "link": get(process_data.apply_async((1,), link=process_data.s())),
        "chain": get(chain(process_data.s(1), process_data.s(), process_data.s()).delay()),
        "immutable": get(chain(process_data.s(1), process_data.si(5)).delay()),
        "group": get(group(process_data.s(n) for n in range(5)).delay()),
        "chord": get(chord(echoes(1, 2, 3), echo.s()).delay()),
        "chord_of_one": get(chord(echoes(1), echo.s()).delay()),
        "chain_of_groups": get(chain(
            process_data.s(1), group(process_data.s(), process_data.s()), echo.s()).delay()),
        "group_of_chains": get(group(
            chain(process_data.s(n), process_data.s()) for n in range(3)).delay()),
        "chord_in_chain": get(chain(
            echo.s(2), chord([process_data.s(), process_data.s()], echo.s()), echo.s()).delay()),
        "nested_chord": get(chord([
            chord(echoes(1, 2), echo.s()), chord(echoes(3), echo.s())], echo.s()).delay()),
        "chord_after_chains": get(chord(
            [chain(process_data.s(n), process_data.s()) for n in (1, 2)], echo.s()).delay()),
        "group_in_chord": get(chord(
            group(process_data.s(1), group(process_data.s(2), process_data.s(3))),
            echo.s()).delay()),
    }
    done["map"] = get(process_data.map([1, 2, 3]).apply_async())
    done["starmap"] = get(process_data.starmap([(1,), (2,)]).apply_async())
    done["chunks"] = get(process_data.chunks([(n,) for n in range(5)], 2).apply_async())
    done["map_in_chain"] = get(chain(echo.si(0), process_data.map([1, 2]), process_data.s()).delay())
    done["map_in_chord"] = get(chord([process_data.map([1]), echo.s(2)], echo.s()).delay())
    first = process_data.apply_async((1,), link=process_data.s())
    get(first)
    linked = first.children[0]
    done["children"] = [get(linked), linked.parent is None]
    broken = chain(echo.s(1), fail.si(error="fail"), echo.s()).delay()
    done["broken_chain"] = failure(broken)
    done["broken_parent"] = broken.parent.state
    chord_result = chord([echo.s(1), fail.s(error="fail")], echo.s()).delay()
    done["broken_chord"] = failure(chord_result)
    return done


def mixed():
    """Steps on Lovage and on a worker of Celery's own, in one workflow."""
    note = f"note-{QUEUE}"
    done = {
        "from_lovage": get(chain(process_data.s(1), py_add.s(10)).delay()),
        "to_lovage": get(chain(py_add.s(1), process_data.s()).delay()),
        "there_and_back": get(chain(py_add.s(1), process_data.s(), py_add.s(), process_data.s()).delay()),
        "header_mixed": get(chord([process_data.s(1), py_add.s(1)], py_sum.s()).delay()),
        "body_here": get(chord([py_add.s(1), py_add.s(2)], echo.s()).delay()),
        "header_here": get(chord([process_data.s(1), process_data.s(2)], py_sum.s()).delay()),
        "group_mixed": get(group(process_data.s(3), py_add.s(3)).delay()),
        "failed_there": failure(chain(py_fail.s(), process_data.s()).delay()),
        "chord_failed_there": failure(chord([process_data.s(1), py_fail.s()], echo.s()).delay()),
    }
    fail.apply_async(kwargs={"error": "fail"}, link_error=py_note.s())
    for _ in range(WAIT * 10):
        told = app.backend.client.get(note)
        if told:
            done["errback"] = len(json.loads(told))
            break
        time.sleep(0.1)
    return done


def revoke():
    """Two tasks, one that runs and one that waits. Somebody else revokes them."""
    running = steps.delay(steps=600, ms=100)
    waiting = process_data.apply_async((1,), countdown=5)
    print(running.id, flush=True)
    print(waiting.id, flush=True)
    return {"running": get(running), "waiting": failure(waiting)}


def progress():
    running = steps.delay(steps=40, ms=100)
    seen = None
    for _ in range(WAIT * 10):
        if running.state == "PROGRESS":
            seen = running.info
            break
        time.sleep(0.05)
    return {"seen": seen, "ended": get(running)}


def strangers():
    """Messages that no component here serves, and one with pickle."""
    pickled = app.send_task("tasks.echo", args=(1,), serializer="pickle")
    nobody.apply_async()
    return {"pickle": failure(pickled), "after": get(process_data.delay(2))}


def many():
    count = int(os.environ.get("CELERY_COUNT", "300"))
    results = []
    for n in range(count // 10):
        results.append((chain(process_data.s(n), process_data.s()).delay(), n * 4))
        results.append((chord([echo.s(n), echo.s(n + 1)], echo.s()).delay(), [n, n + 1]))
        results.append((group(process_data.s(n), process_data.s(n)).delay(), [n * 2, n * 2]))
    print("sent", flush=True)
    wrong = []
    for result, expected in results:
        found = result.get(timeout=240)
        if found != expected:
            wrong.append([str(found), str(expected)])
    return {"count": len(results), "wrong": wrong}


def without_a_store():
    return {
        "value": get(process_data.delay(21)),
        "chain": get(chain(process_data.s(1), process_data.s(), process_data.s()).delay()),
        "group": get(group(process_data.s(1), process_data.s(2)).delay()),
        "failed": failure(fail.delay(error="fail")),
        "broken": failure(chain(fail.s(error="fail"), process_data.s()).delay()),
    }


def seed():
    """As the program that Lovage was made for: `backend='sqs'`."""
    return {"value": get(process_data.delay(21))}


def large():
    """More than a message of SQS holds, from a task whose result is stored."""
    result = process_data.apply_async(("x" * 600_000,), compression="gzip")
    return {"length": len(get(result))}


def expiries():
    """How long the store keeps a success and a failure, in seconds."""
    done, failed = process_data.delay(1), fail.delay(error="fail")
    get(done)
    failure(failed)
    kept = [app.backend.client.ttl(app.backend.get_key_for_task(it.id)) for it in (done, failed)]
    return {"success": kept[0], "failure": kept[1]}


def odd_ids():
    """Ids of every form, over the backend that is configured."""
    ids = ["a\nb", "x" * 1000, "ä 🌿", "tab\t", "'\"", "plain"]
    ids = [f"{it}-{uuid.uuid4()}" for it in ids]
    results = [process_data.apply_async((n,), task_id=it) for n, it in enumerate(ids)]
    # One whose body cannot be read is refused to the client, whatever its id.
    refused = app.send_task("tasks.echo", args=(1,), serializer="pickle", task_id=f"no\n{uuid.uuid4()}")
    return {"values": [get(it) for it in results], "refused": failure(refused)}


def limited_map():
    """Five items of a second each, in a task that has two."""
    calls = {"task": app.signature("tasks.sleep"), "it": [{"ms": 1000}] * 5}
    return failure(app.send_task("celery.map", kwargs=calls, time_limit=2))


def success_stays():
    """A success that a worker of Celery's stored compressed, and the same task here, which fails."""
    ident = str(uuid.uuid4())
    app.backend.store_result(ident, 7, "SUCCESS")
    failed = app.send_task("tasks.fail", kwargs={"error": "fail"}, task_id=ident)
    get(process_data.delay(1))
    time.sleep(2)
    return {"value": get(failed)}


def elsewhere():
    stolen = echo.si("a job that somebody else trusts").set(queue=os.environ["VICTIM"])
    return failure(process_data.apply_async((1,), link=stolen))


def unanswered():
    chain(process_data.s(1), process_data.s()).delay()
    nobody.delay()
    echo.apply_async((1,), countdown=600)
    return {}


def states(result):
    """How all of a chain ended, from its first task on. Its states are stored one after the other."""
    found = []
    while result is not None:
        until = time.monotonic() + 30
        while not result.ready() and time.monotonic() < until:
            time.sleep(0.05)
        found.insert(0, result.state)
        result = result.parent
    return found


def told(error_id):
    """What an errback was called with."""
    return get(app.AsyncResult(error_id))


def unsendable():
    """What comes next cannot be sent: a chord's body that is too large, a queue that is not there."""
    errback = str(uuid.uuid4())
    parts = [echo.s("x" * 300_000) for _ in range(4)]
    body = echo.s().on_error(echo.s().set(task_id=errback))
    large = chord(parts, body).apply_async()
    done = {"large": failure(large), "header": [part.state for part in large.parent.children]}
    done["errback"] = told(errback) == large.id
    for case, queue in [("missing", "nowhere-" + uuid.uuid4().hex), ("refused", "no queue at all")]:
        errback = str(uuid.uuid4())
        last = process_data.s().set(queue=queue).on_error(echo.s().set(task_id=errback))
        result = chain(process_data.s(1), last, process_data.s()).apply_async()
        done[case] = failure(result)
        done[case]["states"] = states(result)
    return done


def dotted():
    """A queue's name with a full stop, which SQS does not take: kombu's name for it."""
    name = os.environ["DOTTED"]
    result = chain(process_data.s(21), process_data.s().set(queue=name)).apply_async()
    return {"value": get(result), "direct": get(process_data.apply_async((1,), queue=name))}


def next_step():
    """A chain whose last step is for a queue that may be gone."""
    errback = str(uuid.uuid4())
    last = process_data.s().set(queue=os.environ["NEXT"]).on_error(echo.s().set(task_id=errback))
    result = chain(process_data.s(1), last).apply_async()
    if os.environ.get("GONE"):
        return {**failure(result), "states": states(result), "errback": told(errback) == result.id}
    return {"first": get(result.parent)}


def one():
    result = process_data.delay(21)
    return {"value": get(result), "chord": get(chord([echo.s(1), echo.s(2)], echo.s()).delay())}


if __name__ == "__main__":
    with allow_join_result():
        print(json.dumps(globals()[sys.argv[1]](), default=str))
