"""A webhook's other end: takes Firebreak's messages on loopback and checks who signed them.

A message carries `X-Firebreak-Timestamp` and `X-Firebreak-Signature: sha256=<hex>`, the HMAC-SHA256
of the timestamp, a dot and the body. What does not verify, or is too old, gets 401 and is kept as
unverified, so that a test can tell a refused message from one that never came.
"""

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from firebreak.records import parse_timestamp

HOST = "127.0.0.1"
SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-Firebreak-Signature", "X-Firebreak-Timestamp"
MAX_BODY_BYTES = 1 << 20
MAX_AGE_S = 300.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it came. `problem` is empty when the signature holds."""

    path: str
    headers: dict[str, str]
    body: bytes
    problem: str

    @property
    def verified(self) -> bool:
        """Whether the holder of the secret sent this, just now."""
        return not self.problem


def sign(secret: str, stamp: str, body: bytes) -> str:
    """The value of the signature header of a body sent at `stamp` (the timestamp header)."""
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


def problem_of(secret: str, stamp: str, signature: str, body: bytes) -> str:
    """Why a message is not authentic and fresh; empty when it is both.

    Args:
        secret: shared with the sender.
        stamp: timestamp header, seconds since 1970 or RFC 3339.
        signature: signature header.
        body: as received, before any parsing.
    """
    expected = sign(secret, stamp, body).encode()
    if not hmac.compare_digest(expected, signature.encode("utf-8", "replace")):
        return "signature does not verify"
    try:
        sent = float(stamp) if _is_number(stamp) else parse_timestamp(stamp).timestamp()
    except (ValueError, OverflowError):
        return f"timestamp {stamp!r} is not a time"
    age = time.time() - sent
    return "" if abs(age) <= MAX_AGE_S else f"sent {age:.0f} s ago, at most {MAX_AGE_S:g} s"


class WebhookReceiver:
    """Listens in a thread of its own until `close`.

    Attributes:
        secret: shared with the sender.
        url: where to send to.
    """

    def __init__(self, secret: str, port: int = 0) -> None:
        self.secret = secret
        self._deliveries: list[Delivery] = []
        self._changed = threading.Condition()
        self._server = _Server((HOST, port), self)
        self.url = f"http://{HOST}:{self._server.server_port}/hooks/firebreak"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="webhook-receiver", daemon=True
        )
        self._thread.start()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Everything that came so far, oldest first, refused ones included."""
        with self._changed:
            return tuple(self._deliveries)

    def wait_for(self, count: int, timeout_s: float = 10.0) -> tuple[Delivery, ...]:
        """The deliveries, once there are `count` verified ones or the time is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: sum(d.verified for d in self._deliveries) >= count, timeout_s
            )
            return tuple(self._deliveries)

    def take(self, delivery: Delivery) -> None:
        """Keep a delivery (called by the server's threads)."""
        with self._changed:
            self._deliveries.append(delivery)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening; twice is the same as once."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receiver: WebhookReceiver) -> None:
        super().__init__(address, _Handler)
        self.receiver = receiver


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10.0

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 12:
            return self._answer(HTTPStatus.LENGTH_REQUIRED)
        if int(length) > MAX_BODY_BYTES:
            return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(length))
        stamp = self.headers.get(TIMESTAMP_HEADER, "")
        signature = self.headers.get(SIGNATURE_HEADER, "")
        problem = problem_of(self.server.receiver.secret, stamp, signature, body)
        self.server.receiver.take(Delivery(self.path, dict(self.headers), body, problem))
        return self._answer(HTTPStatus.UNAUTHORIZED if problem else HTTPStatus.NO_CONTENT)

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent: the deliveries are the record."""


def _is_number(stamp: str) -> bool:
    return stamp.replace(".", "", 1).isdecimal() and stamp.isascii()
