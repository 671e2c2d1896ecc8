"""Results of Celery's tasks over Amazon SQS.

Installed, it gives Celery the result backend ``sqs``: each client gets its results in a queue of its own,
named by the ``reply_to`` of its messages, as with Celery's ``rpc`` backend over AMQP. Nothing has to be imported.
"""

from .errors import LovageError, NotAResult, ResultQueueError, ResultTooLarge, TaskFailed

__all__ = ["LovageError", "NotAResult", "ResultQueueError", "ResultTooLarge", "TaskFailed", "__version__"]

__version__ = "0.1.0"
