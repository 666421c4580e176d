"""Channels and sending, against a real HTTP receiver."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firebreak.communication import channels
from firebreak.communication.channels import alert, signature
from firebreak.communication.send import NOBODY, send
from firebreak.errors import ChannelError
from firebreak.incidents.case import Case, working_on
from firebreak.inventory import Channel
from incident_cases import finding, make_case, reopen


class Receiver:
    """An HTTP server that keeps what it gets and answers as told; the last answer repeats."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = [200]
        self.delay_s = 0.0
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                time.sleep(receiver.delay_s)
                answers = receiver.answers
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook/s3cret-path"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver, and no waiting between attempts."""
    monkeypatch.setattr(channels, "BACKOFF_S", 0.01)
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def webhook(receiver: Receiver, **more: Any) -> Channel:
    """A webhook channel to the receiver."""
    return Channel("chat", "webhook", url=receiver.url, **{"timeout_s": 5.0, **more})


def kinds(case: Case, kind: str) -> list[dict[str, Any]]:
    """The bodies of one kind of entry."""
    return [e.body for e in case.entries() if e.kind == kind]


def test_a_webhook_gets_a_signed_message_that_it_can_check(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HMAC covers timestamp and body; the body has what a receiver needs."""
    monkeypatch.setenv("HOOK_SECRET", "k3y")
    case = make_case(tmp_path, (webhook(receiver, secret="env:HOOK_SECRET"),))
    case.add_findings([finding()])
    result = send(case, "initial_alert")
    ((_, headers, body),) = receiver.requests
    seen = json.loads(body)
    assert set(seen) == {"text", "severity", "incident", "template", "id", "subject"}
    assert (seen["severity"], seen["incident"]) == ("critical", case.id)
    assert headers["X-Firebreak-Delivery"] == seen["id"] == result["id"]
    assert headers["X-Firebreak-Signature"] == signature(
        "k3y", headers["X-Firebreak-Timestamp"], body
    )
    assert result["sent"] == ["chat"]
    assert result["told"]
    assert "k3y" not in str([e.to_json() for e in case.entries()])


def test_a_busy_receiver_is_asked_again(tmp_path: Path, receiver: Receiver) -> None:
    """500, then 429, then 200: one message, the same delivery id each time."""
    receiver.answers = [500, 429, 200]
    case = make_case(tmp_path, (webhook(receiver),))
    assert send(case, "initial_alert")["sent"] == ["chat"]
    assert len({h["X-Firebreak-Delivery"] for _, h, _ in receiver.requests}) == 1
    assert len(receiver.requests) == 3


@pytest.mark.parametrize(("answers", "count"), [([404], 1), ([302], 1), ([307], 1), ([500], 3)])
def test_what_cannot_succeed_is_not_repeated_and_redirects_are_not_followed(
    tmp_path: Path, receiver: Receiver, answers: list[int], count: int
) -> None:
    """A 404 and a redirect fail at once, 500 after three attempts; the response goes on."""
    receiver.answers = answers
    case = make_case(tmp_path, (webhook(receiver),))
    result = send(case, "initial_alert")
    assert [f["channel"] for f in result["failed"]] == ["chat"]
    assert str(answers[0]) in result["failed"][0]["error"]
    assert [path for path, _, _ in receiver.requests] == ["/hook/s3cret-path"] * count
    assert kinds(case, "message.failed")[0]["channel"] == "chat"


def test_a_hanging_receiver_ends_in_its_timeout(tmp_path: Path, receiver: Receiver) -> None:
    """Three attempts of a fifth of a second, then it is journaled and the rest goes on."""
    receiver.delay_s = 30
    folder = Channel("folder", "file", path=tmp_path / "out")
    case = make_case(tmp_path, (webhook(receiver, timeout_s=0.2), folder))
    start = time.monotonic()
    result = send(case, "initial_alert")
    assert time.monotonic() - start < 5
    assert "did not answer within 0.2 s" in result["failed"][0]["error"]
    assert result["sent"] == ["folder"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/s3cret", "http://[bad/s3cret", "http://a b/s3cret"]
)
def test_no_error_holds_a_secret(
    tmp_path: Path, url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the URL's path nor the key is in the journal when nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setenv("HOOK_SECRET", "k3y")
    channel = Channel(
        "chat", "webhook", url=url.format(free), secret="env:HOOK_SECRET", timeout_s=1
    )
    case = make_case(tmp_path, (channel,))
    assert not send(case, "initial_alert")["told"]
    journal = str([e.to_json() for e in case.entries()])
    assert "s3cret" not in journal
    assert "k3y" not in journal


def test_a_missing_secret_sends_nothing_unsigned(tmp_path: Path, receiver: Receiver) -> None:
    """The reference is named, no request is made."""
    case = make_case(tmp_path, (webhook(receiver, secret="env:NOT_SET_ANYWHERE"),))
    assert "env:NOT_SET_ANYWHERE" in send(case, "initial_alert")["failed"][0]["error"]
    assert receiver.requests == []


def test_a_restart_after_a_crash_sends_nothing_twice(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between delivery and journal: the folder keeps one file, the id stays the same."""
    folder = Channel("folder", "file", path=tmp_path / "out")
    case = make_case(tmp_path, (folder, webhook(receiver)))

    class Killed(BaseException):
        pass

    real = Case.append

    def append(self: Case, kind: str, *args: Any, **more: Any) -> Any:
        if kind == "action.finished":
            raise Killed
        return real(self, kind, *args, **more)

    with working_on("alert"):
        monkeypatch.setattr(Case, "append", append)
        with pytest.raises(Killed):
            send(case, "initial_alert")
        monkeypatch.undo()
        first = (tmp_path / "out").iterdir()
        (file,) = first
        before = file.read_text()
        again = reopen(case)
        again.add_findings([finding("seen later")])
        result = send(again, "initial_alert")
        once_more = send(reopen(case), "initial_alert")
    assert result["sent"] == once_more["sent"] == ["folder", "chat"]
    assert [p.read_text() for p in (tmp_path / "out").iterdir()] == [before]
    assert file.name == f"{result['id']}.md"
    assert len(receiver.requests) == 1
    assert [b["channel"] for b in kinds(again, "message.sent")] == ["folder", "chat"]
    assert len(kinds(again, "action.reconciled")) == 1


def test_other_steps_templates_and_sequences_are_other_messages(tmp_path: Path) -> None:
    """Two updates in one step are two messages, numbered."""
    case = make_case(tmp_path, (Channel("folder", "file", path=tmp_path / "out"),))
    with working_on("inform"):
        ids = [send(case, "stakeholder_update", sequence=n)["id"] for n in (1, 2, 2)]
        ids.append(send(case, "initial_alert")["id"])
    with working_on("later"):
        ids.append(send(case, "stakeholder_update")["id"])
    assert len(set(ids)) == len(list((tmp_path / "out").iterdir())) == 4
    subjects = [b["subject"] for b in kinds(case, "message.sent")]
    assert [s[-8:] for s in subjects if "update" in s] == ["update 1", "update 2", "update 3"]


def test_without_channels_it_is_said_that_nobody_was_told(case: Case) -> None:
    """Silence is journaled and returned."""
    result = send(case, "initial_alert")
    assert (result["told"], result["sent"]) == (False, [])
    assert kinds(case, "message.failed")[0]["error"] == NOBODY == result["failed"][0]["error"]


def test_a_broken_template_does_not_stop_the_response(tmp_path: Path) -> None:
    """An operator's mistake is journaled as a failed message."""
    case = make_case(tmp_path, (Channel("folder", "file", path=tmp_path / "out"),))
    own = case.inventory.home / "templates"
    own.mkdir(parents=True)
    (own / "initial_alert.j2").write_text("Subject: x\n{{ ''.__class__ }}")
    assert not send(case, "initial_alert")["told"]
    assert "initial_alert" in kinds(case, "message.failed")[0]["error"]


def test_a_folder_that_cannot_be_written_is_a_failed_channel(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "out").write_text("")
    case = make_case(tmp_path, (Channel("folder", "file", path=tmp_path / "out"),))
    assert "cannot be written" in send(case, "initial_alert")["failed"][0]["error"]


def test_an_alert_is_text_and_severity(receiver: Receiver) -> None:
    """What the earlier scripts' webhook receivers expect, and an error when it fails."""
    alert(webhook(receiver), finding("weights differ"))
    assert json.loads(receiver.requests[0][2]) == {
        "text": "[CRITICAL] model_file_tampered: weights differ",
        "severity": "critical",
    }
    receiver.answers = [404]
    with pytest.raises(ChannelError, match=r"chat.*404"):
        alert(webhook(receiver), finding())


@pytest.fixture
def drip() -> Iterator[str]:
    """The URL of a server that sends a byte of its headers every 50 ms and never ends."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def feed(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.05):
                connection.sendall(b"a")

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                threading.Thread(target=feed, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/s3cret"
    stop.set()
    listener.close()


def test_a_server_that_drips_bytes_ends_in_the_timeout(
    drip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte is in time for the socket; the attempt as a whole is not."""
    monkeypatch.setattr(channels, "BACKOFF_S", 0.01)
    monkeypatch.setattr(channels, "ALERT_TIMEOUT_S", 0.3)
    start = time.monotonic()
    with pytest.raises(ChannelError, match="did not answer within") as caught:
        alert(Channel("chat", "webhook", url=drip), finding())
    assert time.monotonic() - start < 3
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"secret": "file:/tmp"},
        {"secret": "k3y-in-the-wrong-place"},
        {"url": f"http://{'a' * 70}.example/s3cret"},
        {"url": f"http://{'a' * 300}/s3cret"},
        {"url": "http://[::1/s3cret"},
        {"url": "gopher://x/s3cret"},
        {"url": None},
        {"kind": "file", "path": Path("/tmp/a\0b")},
    ],
)
def test_every_wrong_setting_of_a_channel_is_a_channel_error(
    tmp_path: Path, receiver: Receiver, more: dict[str, Any]
) -> None:
    """It is journaled, the other channels get the message, and nothing secret is told."""
    bad = Channel(**{"id": "bad", "kind": "webhook", "url": receiver.url, "timeout_s": 1.0} | more)
    with pytest.raises(ChannelError) as caught:
        alert(bad, finding())
    case = make_case(tmp_path, (bad, Channel("folder", "file", path=tmp_path / "out")))
    result = send(case, "initial_alert")
    assert result["sent"] == ["folder"]
    assert [b["channel"] for b in kinds(case, "message.failed")] == ["bad"]
    told = f"{caught.value} {[e.to_json() for e in case.entries()]}"
    assert "s3cret" not in told
    assert "k3y" not in told
