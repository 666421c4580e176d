"""Whether a service answers, seen from here, and requests that end in time whatever it does.

The timeout of `requests` starts anew with each byte that arrives: a server that sends one byte now
and then holds its caller for ever. `within` counts the time on the wall.
"""

import threading
from collections.abc import Callable
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import TypeVar

import requests
from urllib3.exceptions import HTTPError

ANSWER_TIMEOUT_S = 2.0

T = TypeVar("T")


class DirectSession(requests.Session):
    """A session that never looks at a redirect: `requests` would read its whole body first."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: the answer is taken as it is."""


def answers(url: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """True when a GET of the URL answers 200 itself: no redirect, no proxy, the body unread.

    Args:
        url: what to ask.
        timeout_s: for all of it, from looking up the name to the end of the headers.
    """

    def get() -> int:
        with DirectSession() as session:
            session.trust_env = False
            with session.get(
                url, timeout=timeout_s, allow_redirects=False, stream=True
            ) as response:
                return response.status_code

    try:
        return within(timeout_s, get) == HTTPStatus.OK
    except (requests.RequestException, HTTPError, UnicodeError, TimeoutError):
        return False


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """The result of a call, or its exception, when it ends in time.

    The call runs in a thread of its own. One that does not end in time is left behind; it keeps
    neither the caller nor the process.

    Raises:
        TimeoutError: it has not ended after `timeout_s`.
    """
    outcome: SimpleQueue[tuple[T, None] | tuple[None, Exception]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome.put((None, error))

    threading.Thread(target=run, name="firebreak-request", daemon=True).start()
    try:
        result, error = outcome.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
