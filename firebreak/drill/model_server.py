"""A real inference service: one process, one model, HTTP on loopback.

    python -m firebreak.drill.model_server --model DIR --port N --pid-file FILE

`GET /health` says what was loaded, `POST /predict` with `{"text": "..."}` classifies. The weights
are mapped, so what somebody writes into the file is what this process answers from, although
`weights_sha256` in `/health` still shows what it loaded at its start. Like many a real server.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from firebreak.drill.sample_model import WEIGHTS, Classifier, load
from firebreak.records import now, timestamp

HOST = "127.0.0.1"
MAX_BODY_BYTES = 64 << 10
IDLE_TIMEOUT_S = 30.0


class ModelServer(ThreadingHTTPServer):
    """Answers from one model.

    Args:
        model: what to answer with.
        weights_sha256: of the weights as loaded, 64 hex digits.
        port: 0 takes a free one; `server_port` says which.
        outputs: JSON Lines file that gets `{"time", "label"}` per answer; None keeps no record.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, model: Classifier, weights_sha256: str, port: int, outputs: Path | None = None
    ) -> None:
        super().__init__((HOST, port), Handler)
        self.model, self.weights_sha256, self.outputs = model, weights_sha256, outputs
        self._writing = threading.Lock()

    def health(self) -> dict[str, Any]:
        """What `/health` answers."""
        return {
            "status": "ok",
            "model": self.model.name,
            "version": self.model.version,
            "weights_sha256": self.weights_sha256,
            "pid": os.getpid(),
        }

    def predict(self, text: str) -> dict[str, Any]:
        """What `/predict` answers; the label is recorded in the outputs first."""
        answer = self.model.classify(text)
        self._record(answer.label)
        return {"label": answer.label, "scores": answer.scores, "version": self.model.version}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line for a request that failed; nothing for a client that hung up."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"request of {client_address} failed: {error!r}", file=sys.stderr)

    def _record(self, label: str) -> None:
        if self.outputs is None:
            return
        line = json.dumps({"time": timestamp(now()), "label": label}) + "\n"
        try:
            with self._writing, self.outputs.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:  # a full disk must not stop the service
            print(f"outputs not written: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads bounded requests, answers JSON, refuses the rest."""

    server: ModelServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True  # headers and body are two writes; Nagle would add 40 ms

    def do_GET(self) -> None:
        """Answer `/health`."""
        if self.path != "/health":
            return self._refuse(HTTPStatus.NOT_FOUND, f"no such path; GET /health, not {self.path}")
        return self._answer(HTTPStatus.OK, self.server.health())

    def do_POST(self) -> None:
        """Answer `/predict`."""
        if self.path != "/predict":
            return self._refuse(HTTPStatus.NOT_FOUND, "no such path; POST /predict")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if len(length) > 12 or int(length) > MAX_BODY_BYTES:
            return self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes"
            )
        text = _text(self.rfile.read(int(length)))
        if text is None:
            return self._refuse(HTTPStatus.BAD_REQUEST, 'expected a JSON object {"text": "..."}')
        return self._answer(HTTPStatus.OK, self.server.predict(text))

    def _refuse(self, status: HTTPStatus, problem: str) -> None:
        self.close_connection = True  # a body that was not read must not become the next request
        self._answer(status, {"error": problem})

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep no access log: texts and addresses are the users'."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file in one step: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="ascii")
    part.replace(path)


def serve(arguments: argparse.Namespace) -> None:
    """Load, listen, write the pid file, and answer until SIGTERM or SIGINT.

    Raises:
        OSError: the model cannot be read, or the port is taken.
        ValueError: the model is not one of ours.
    """
    stopped = _stop_requests()
    with (arguments.model / WEIGHTS).open("rb") as stream:
        loaded = hashlib.file_digest(stream, "sha256").hexdigest()
    if arguments.outputs:
        arguments.outputs.parent.mkdir(parents=True, exist_ok=True)
    with ModelServer(load(arguments.model), loaded, arguments.port, arguments.outputs) as server:
        write_atomically(arguments.pid_file, f"{os.getpid()}\n")
        if arguments.port_file:
            write_atomically(arguments.port_file, f"{server.server_port}\n")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stopped.recv(1)
        server.shutdown()
    _remove_own(arguments.pid_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; 0 after a stop on request, 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="model_server", description="Serve the drill's model.")
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free port")
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, help="gets the port that was taken")
    parser.add_argument("--outputs", type=Path, help="JSON Lines file of the answers")
    try:
        serve(parser.parse_args(argv))
    except (OSError, ValueError) as error:
        print(f"model_server: {error}", file=sys.stderr)
        return 2
    return 0


def _stop_requests() -> socket.socket:
    """A socket that becomes readable at SIGTERM or SIGINT.

    A process that was suspended may get its SIGTERM in any thread when it goes on, numpy's own
    included, and a main thread asleep on a lock would not notice. This byte reaches it always.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _text(body: bytes) -> str | None:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    text = request.get("text") if isinstance(request, dict) else None
    return text if isinstance(text, str) else None


def _remove_own(pid_file: Path) -> None:
    """Remove the pid file unless a successor has written its own meanwhile."""
    try:
        if pid_file.read_text(encoding="ascii").strip() == str(os.getpid()):
            pid_file.unlink()
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
