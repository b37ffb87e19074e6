"""Doing something for notifications before they are handed out, a bounded number ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from sidecar.wire.notification import Notification

MAX_AHEAD: Final = 64


def ahead_of(
    notifications: Iterable[Notification], ahead: int, do: Callable[[Notification], None]
) -> Generator[Notification, None, None]:
    """Yield `notifications`, while threads `do` the next `ahead`; what they raise is dropped.

    Raises `ValueError` for a number that is not from 1 to 64.
    """
    if not 1 <= ahead <= MAX_AHEAD:
        raise ValueError(f"ahead is {ahead}: it must be from 1 to {MAX_AHEAD}")
    return _each(notifications, ahead, do)


def _each(
    notifications: Iterable[Notification], ahead: int, do: Callable[[Notification], None]
) -> Generator[Notification, None, None]:
    coming = deque[tuple[Notification, Future[None]]]()
    pool = ThreadPoolExecutor(ahead, "feed-ahead")
    try:
        for notification in notifications:
            coming.append((notification, pool.submit(do, notification)))
            if len(coming) > ahead:
                yield _first(coming)
        while coming:
            yield _first(coming)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _first(coming: deque[tuple[Notification, Future[None]]]) -> Notification:
    notification, future = coming.popleft()
    future.cancel()  # not begun yet: then it is no sooner done than by who gets it now
    return notification
