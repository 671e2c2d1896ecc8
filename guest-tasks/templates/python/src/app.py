"""Tasks. `lovage build` makes a component of this module."""

from lovage import Context, Handler, Reject, task

__all__ = ["Handler"]  # what the host calls


@task
def my_task(number: object, ctx: Context) -> int | float:
    """Doubles a number."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise Reject(f"a number is needed, not {type(number).__name__}")
    twice = 2 * number
    if twice in (float("inf"), float("-inf")):
        raise Reject(f"{number} is too large to be doubled")
    ctx.progress(100, "doubled")
    return twice
