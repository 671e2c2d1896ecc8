"""What can go wrong, as types.

They are made anew from their arguments where a result is read (Celery sends an exception as its type and its
arguments), so each keeps all it knows in ``args``, as text.
"""


class LovageError(Exception):
    """What all errors of this package are."""


class ResultQueueError(LovageError):
    """The client's queue for results cannot be made or read. The text says which call failed, and why."""


class ResultTooLarge(LovageError):  # noqa: N818 - the name is what users read in a traceback
    """A task's result is more than SQS carries. The task itself was done; its value is lost."""


class NotAResult(LovageError):  # noqa: N818
    """A message on a queue for results is none. Never raised to callers: such messages are logged and deleted."""


class TaskFailed(LovageError):  # noqa: N818
    """A task on a Lovage worker came to an end without a value.

    ``kind`` is Lovage's name for the reason (``"bad_input"``, ``"cpu_limit"``), ``message`` says more.
    """

    def __init__(self, kind: str = "failed", message: str = "") -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind
