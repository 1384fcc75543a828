"""Reading what comes next while what came before is on its way: a store is waited for once, and not each time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(read: Callable[[_Item], _Result], items: Iterable[_Item], most: int) -> Iterator[_Result]:
    """Yield what is read of each item, in their order, up to so many at once; with 1 each in its turn.

    Raises:
        what `read` does, when the item's turn has come.
    """
    if most <= 1:
        yield from map(read, items)
        return
    readers = ThreadPoolExecutor(most, thread_name_prefix="ahead")
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(readers.submit(read, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)
