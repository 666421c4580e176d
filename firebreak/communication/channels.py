"""Channels: a folder of messages, and webhooks. Delivering the same message twice is harmless.

No error names a channel's URL or secret: the path of a chat webhook is itself a secret. Whatever is
wrong with one channel is a `ChannelError`, so that it stops neither the caller nor other channels.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from firebreak.communication.templates import Message
from firebreak.containment.reach import DirectSession, within
from firebreak.errors import ChannelError, SettingError
from firebreak.inventory import Channel
from firebreak.records import Finding, Json, Severity, now, printable, timestamp
from firebreak.settings import secret

ATTEMPTS = 3
BACKOFF_S = 1.0  # before the second attempt; doubled before the third
ALERT_TIMEOUT_S = 10.0
BUSY = 429


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way.

    Attributes:
        id: stable message id; the receiver uses it to drop what it has already.
        incident: incident id.
        severity: of the incident.
        message: what is sent.
    """

    id: str
    incident: str
    severity: str
    message: Message


def deliver(channel: Channel, delivery: Delivery) -> Json:
    """Deliver over one channel; a webhook has `timeout_s` for each of three attempts.

    Returns: a receipt: `{"file": …}` or `{"status": …, "attempts": …}`.

    Raises:
        ChannelError: it could not be delivered; the error holds no secret and no URL path.
    """
    with _only_channel_errors(channel):
        return _deliver(channel, delivery)


def _deliver(channel: Channel, delivery: Delivery) -> Json:
    if channel.kind == "file":
        return _to_folder(channel, delivery)
    message = delivery.message
    body: Json = {
        "text": message.text,
        "severity": delivery.severity,
        "incident": delivery.incident,
        "template": message.template,
        "id": delivery.id,
        "subject": message.subject,
    }
    return _post(channel, body, delivery.id, channel.timeout_s)


def alert(channel: Channel, finding: Finding) -> Json:
    """Send one finding at once, as `{"text", "severity"}`; three attempts of 10 s.

    A `file` channel gets it as a file. The same finding has the same delivery id.

    Raises:
        ChannelError: it could not be delivered.
    """
    text = f"[{finding.severity.value.upper()}] {finding.type.value}: {finding.message}"
    subject = f"{finding.severity.value}: {finding.type.value}"
    return announce(channel, finding.severity, subject, text, finding.key[:32])


def announce(
    channel: Channel, severity: Severity, subject: str, text: str, delivery_id: str
) -> Json:
    """Send a short text at once, as `alert` does.

    Raises:
        ChannelError: it could not be delivered.
    """
    with _only_channel_errors(channel):
        if channel.kind == "file":
            message = Message(subject, text, "alert", "security and ML platform teams", None)
            return _to_folder(channel, Delivery(delivery_id, "", severity.value, message))
        body: Json = {"text": text, "severity": severity.value}
        return _post(channel, body, delivery_id, ALERT_TIMEOUT_S)


@contextmanager
def _only_channel_errors(channel: Channel) -> Iterator[None]:
    """Turn every failure into a ChannelError with its kind only: its text may hold the URL."""
    try:
        yield
    except ChannelError:
        raise
    except Exception as error:  # noqa: BLE001 - one channel's settings must not stop detection
        raise ChannelError(channel.id, f"cannot be used: {type(error).__name__}") from None


def _to_folder(channel: Channel, delivery: Delivery) -> Json:
    """Write `<id>.md`, whole or not at all; one that exists is left as it is."""
    folder, message = channel.path, delivery.message
    if folder is None:
        raise ChannelError(channel.id, "has no path")
    place = folder / f"{delivery.id}.md"
    part = folder / f".{delivery.id}.{secrets.token_hex(4)}"
    due = f"Due: {timestamp(message.due_at)}\n" if message.due_at else ""
    about = f"Incident: {delivery.incident}\n" if delivery.incident else ""
    head = f"Subject: {message.subject}\nTo: {message.audience}\n{about}{due}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        _write_once(part, place, f"{head}\n{message.text}".encode())
    except OSError as error:
        raise ChannelError(channel.id, f"cannot be written: {error.strerror}") from error
    return {"file": printable(str(place))}


def _write_once(part: Path, place: Path, data: bytes) -> None:
    if place.exists():
        return
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.link(part, place)
    except FileExistsError:
        return  # another worker delivered it just now
    finally:
        part.unlink(missing_ok=True)


def _post(channel: Channel, body: Json, delivery_id: str, timeout_s: float) -> Json:
    data = json.dumps(body, ensure_ascii=False).encode()
    problem = ""
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            time.sleep(BACKOFF_S * 2 ** (attempt - 2))
        try:
            status = _send_once(channel, data, delivery_id, timeout_s)
        except (requests.Timeout, TimeoutError):
            problem = f"did not answer within {timeout_s:g} s"
            continue
        except requests.ConnectionError:
            problem = "cannot be reached"
            continue
        if 200 <= status < 300:
            return {"status": status, "attempts": attempt}
        problem = f"answered {status}"
        if 300 <= status < 400:
            raise ChannelError(channel.id, f"{problem}: redirects are not followed")
        if status < 500 and status != BUSY:
            raise ChannelError(channel.id, problem)
    # From None: the exceptions of requests carry the URL.
    raise ChannelError(channel.id, f"{problem} ({ATTEMPTS} attempts, {_host(channel)})") from None


def _send_once(channel: Channel, data: bytes, delivery_id: str, timeout_s: float) -> int:
    """One attempt; its status. The answer's body is not read."""
    url, headers = channel.url, _headers(channel, data, delivery_id)
    if url is None:
        raise ChannelError(channel.id, "has no url")

    def post() -> int:
        with (
            DirectSession() as session,
            session.post(
                url,
                data=data,
                headers=headers,
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            return response.status_code

    return within(timeout_s, post)


def _headers(channel: Channel, data: bytes, delivery_id: str) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "firebreak",
        "X-Firebreak-Delivery": delivery_id,
        "X-Firebreak-Timestamp": timestamp(now()),
    }
    if channel.secret is not None:
        headers["X-Firebreak-Signature"] = signature(
            _key(channel, channel.secret), headers["X-Firebreak-Timestamp"], data
        )
    return headers


def _key(channel: Channel, reference: str) -> str:
    try:
        key = secret(reference)
    except SettingError:
        # Not the reference itself: one of neither form may be the secret.
        kind = reference.partition(":")[0]
        named = reference if kind in ("env", "file") else "reference"
        problem = f"its secret {printable(named)} cannot be used: expected a set env:NAME or a "
        raise ChannelError(channel.id, f"{problem}readable file:/path") from None
    if key is None:
        raise ChannelError(channel.id, f"its secret {reference} is not set")
    return key


def signature(key: str, moment: str, data: bytes) -> str:
    """`sha256=` and the hex HMAC over timestamp, a dot, and the body; receivers check the same.

    A receiver should also refuse timestamps that are more than a few minutes old.
    """
    return (
        "sha256="
        + hmac.new(key.encode(), moment.encode() + b"." + data, hashlib.sha256).hexdigest()
    )


def _host(channel: Channel) -> str:
    try:
        return urlsplit(channel.url or "").hostname or "no host"
    except ValueError:
        return "no host"
