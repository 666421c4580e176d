"""Whether a service answers, against real sockets."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from firebreak.containment.reach import answers, within


class Server:
    """Sends a beginning at once and then a byte every 50 ms, for ever."""

    def __init__(self) -> None:
        self.beginning = b"HTTP/1.1 200 OK\r\nX-Slow: "
        self.stop = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end of the test
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.feed, args=(connection,), daemon=True).start()

    def feed(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self.beginning)
            while not self.stop.wait(0.05):
                connection.sendall(b"a")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that never ends its answer."""
    found = Server()
    yield found
    found.stop.set()
    found.listener.close()


def test_headers_that_drip_are_no_answer_when_the_time_is_over(server: Server) -> None:
    """Each byte is in time for the socket, the headers are not."""
    start = time.monotonic()
    assert not answers(server.url, 0.3)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("status", "expected"), [("200 OK", True), ("302 Found", False)])
def test_a_body_without_end_is_not_read(server: Server, status: str, expected: bool) -> None:
    """The status is enough; that of a redirect, too."""
    server.beginning = f"HTTP/1.1 {status}\r\nLocation: /x\r\n\r\n".encode()
    start = time.monotonic()
    assert answers(server.url, 5) is expected
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("url", ["http://[bad", f"http://{'a' * 70}.example/", "http://"])
def test_an_address_that_cannot_be_used_does_not_answer(url: str) -> None:
    """No error of a library below gets out."""
    assert not answers(url, 1)


def test_an_error_of_the_call_is_raised_to_its_caller() -> None:
    """As if there were no thread."""
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_a_call_left_behind_does_not_keep_the_process_alive(server: Server) -> None:
    """The interpreter ends at once although the server still drips."""
    code = f"from firebreak.containment.reach import answers; print(answers({server.url!r}, 0.3))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert ran.stdout == "False\n"
