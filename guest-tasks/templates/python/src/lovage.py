"""Tasks as functions: JSON in, JSON out.

A thin layer over the contract in `wit/`; change it as you like.
"""

import inspect
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from componentize_py_types import Err
from wit_world.imports import progress, types

JSON = "application/json"


class Retry(Exception):
    """Something passing went wrong: try again, after so many seconds if given. Spends an attempt."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Snooze(Exception):
    """Not ready yet: come back after so many seconds. Spends no attempt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozes for {seconds} s")
        self.seconds = seconds


class Fail(Exception):
    """It failed and would fail again. `kind` is for programs, `message` and `detail` for people.

    Any other exception is as good: its type is the kind.
    """

    def __init__(self, kind: str, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.detail = kind, detail


class Reject(Exception):
    """The payload is not what the task takes. Never tried again."""


@dataclass(frozen=True)
class Raw:
    """Bytes with their media type, as a payload or a result that is not JSON."""

    content_type: str
    data: bytes


class Context:
    """The attempt: `id` (the same at each attempt: the idempotency key), `task`, `tenant`, `attempt`,
    `max_attempts`, `deadline` (ms since 1970), `root_id`, `parent_id`, `headers`, `content_type`."""

    def __init__(self, invocation: types.Invocation) -> None:
        self._invocation = invocation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._invocation, name)

    def time_left(self) -> float:
        """Seconds until the host stops the task."""
        return max(0.0, self._invocation.deadline / 1000 - time.time())

    def progress(self, percent: int, message: str) -> None:
        """Says how far the attempt is."""
        progress.report(percent, message)

    def is_revoked(self) -> bool:
        """Whether the attempt should end."""
        return progress.is_revoked()


@dataclass(frozen=True)
class _Task:
    function: Callable[..., Any]
    takes_context: bool
    takes_raw: bool
    spec: types.TaskSpec


_tasks: dict[str, _Task] = {}


def task(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    raw: bool = False,
    input_schema: object = None,
    output_schema: object = None,
    max_attempts: int | None = None,
    timeout: float | None = None,
) -> Callable[..., Any]:
    """Makes a task of a function of one argument, the payload, or two: the payload and a `Context`.

    `name` is the function's unless given. With `raw` the payload is a `Raw`, whatever it is.
    Schemas are JSON Schemas as Python values; attempts and timeout (seconds) advise the host.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        spec = types.TaskSpec(
            name or function.__name__,
            inspect.getdoc(function) or "",
            None if input_schema is None else json.dumps(input_schema),
            None if output_schema is None else json.dumps(output_schema),
            max_attempts,
            None if timeout is None else int(timeout * 1000),
        )
        takes_context = len(inspect.signature(function).parameters) > 1
        _tasks[spec.name] = _Task(function, takes_context, raw, spec)
        return function

    return add if function is None else add(function)


def _read(found: _Task, invocation: types.Invocation) -> Any:
    if found.takes_raw:
        return Raw(invocation.content_type, invocation.payload)
    kind = invocation.content_type.split(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        raise Reject(f"the payload is `{invocation.content_type}`, and this task takes `{JSON}`")
    try:
        return json.loads(invocation.payload)
    except (ValueError, RecursionError) as error:
        raise Reject(f"the payload is no JSON: {error}") from error


def _run(invocation: types.Invocation) -> types.Output:
    found = _tasks.get(invocation.task)
    if found is None:
        raise Reject(f"there is no task `{invocation.task}` here")
    payload = _read(found, invocation)
    context = (Context(invocation),) if found.takes_context else ()
    result = found.function(payload, *context)
    if isinstance(result, Raw):
        return types.Output(result.content_type, result.data)
    return types.Output(JSON, json.dumps(result, allow_nan=False).encode())


class Handler:
    """What the host calls."""

    def describe(self) -> list[types.TaskSpec]:
        return [task.spec for task in _tasks.values()]

    def run(self, invocation: types.Invocation) -> types.Output:
        try:
            return _run(invocation)
        except Retry as error:
            after = None if error.after is None else int(error.after * 1000)
            raise Err(types.TaskError_Retry(types.RetryRequest(str(error), after))) from error
        except Snooze as error:
            raise Err(types.TaskError_Snooze(int(error.seconds * 1000))) from error
        except Reject as error:
            raise Err(types.TaskError_Reject(str(error))) from error
        except Fail as error:
            raise Err(
                types.TaskError_Fail(types.Failure(error.kind, str(error), error.detail))
            ) from error
        except Exception as error:
            detail = "".join(traceback.format_exception(error))
            failure = types.Failure(type(error).__name__, str(error), detail)
            raise Err(types.TaskError_Fail(failure)) from error
