"""Whether a service answers, seen from here."""

from http import HTTPStatus

import requests

ANSWER_TIMEOUT_S = 2.0


def answers(url: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """True when a GET of the URL answers 200 itself: no redirect, no proxy, the body unread."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.max_redirects = 0
            with session.get(
                url, timeout=timeout_s, allow_redirects=False, stream=True
            ) as response:
                return response.status_code == HTTPStatus.OK
    except requests.RequestException:
        return False
