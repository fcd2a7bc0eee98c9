"""Many recordings at once, their results in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from audiomask.audio import AudioError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item], work: Callable[[Item, Callable[[], bool]], Result], workers: int
) -> Iterator[tuple[Item, Result | AudioError]]:
    """``work(item, cancelled)`` on many items, ``workers`` at once (threads: graphs run outside Python's
    lock), results in the order of the items; of a bad one its error.

    If the caller stops, ``cancelled`` becomes true, and this returns once the running ones have ended.
    """
    stop = threading.Event()

    def one(item: Item) -> tuple[Item, Result | AudioError]:
        try:
            return item, work(item, stop.is_set)
        except AudioError as error:
            return item, error

    queue = iter(items)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="extract") as pool:
        waiting = [pool.submit(one, item) for item in islice(queue, 2 * workers)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(one, item) for item in islice(queue, 1)]
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
