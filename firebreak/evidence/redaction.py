"""Secrets masked before anything is journaled or stored, and foreign values made storable."""

import math
import re
from collections.abc import Sequence
from typing import Any

from firebreak.records import printable

MASK = "[redacted]"
MAX_SAFE_INTEGER = 2**53 - 1  # beyond it canonical JSON (RFC 8785) refuses integers

# Every repetition before a fixed part is bounded: a hostile line must not stall the capture.
_NAMES = (
    r"[\w.-]{0,64}?(?:token|passwd|password|passphrase|pass|pwd|secret|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|account[_-]?key|credentials?|authorization|auth|cookie|session[_-]?key)"
    r"(?:[_-](?:id|value|b64|base64))?"
)
_OPTION = re.compile(rf"-{{1,2}}{_NAMES}", re.IGNORECASE)
_PATTERNS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,15}://)[^/\s@'\"]+@", re.IGNORECASE), rf"\1{MASK}@"),
    (
        re.compile(
            r"(\bBearer\s+|\bauthorization['\"]?\s*[=:]\s*(?:Basic|Token|Digest)\s+)"
            r"[A-Za-z0-9._~+/=-]{6,}",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (
        re.compile(
            rf"((?<![\w.-])-{{0,2}}{_NAMES}['\"]?\s*[=:]\s*)"
            rf"(?!(?:Bearer|Basic|Token|Digest)\s)(?!\[redacted\])"
            rf"(\"[^\"]*\"|'[^']*'|[^\s&;,'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"((?<!\S)-{{1,2}}{_NAMES}\s+)(?!-)(\S+)", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}"
            r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{8,}|npm_[A-Za-z0-9]{16,}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,}"
            r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
        ),
        MASK,
    ),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        MASK,
    ),
)


def redact(text: str) -> str:
    """Text with the values of secrets masked; names and everything else stay readable.

    Masked: `--token X`, `password=X`, `api-key: X` and their like, `Bearer X`, credentials in URLs,
    well-known token forms (`hf_`, `sk-`, `ghp_`, `AKIA`, JWT) and PEM private keys.

    Example:
        >>> redact("serve --token=abc123 --model m https://user:pw@hub/x")
        'serve --token=[redacted] --model m https://[redacted]@hub/x'
    """
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """An argument list with secrets masked, also when option and value are two arguments.

    Example:
        >>> redact_arguments(["serve", "--api-key", "abc", "--port", "80"])
        ['serve', '--api-key', '[redacted]', '--port', '80']
    """
    clean: list[str] = []
    after_option = False
    for argument in arguments:
        clean.append(MASK if after_option and argument else redact(argument))
        after_option = _OPTION.fullmatch(argument) is not None
    return clean


def storable(value: Any) -> Any:
    """A foreign value as JSON that can be journaled: secrets masked, odd text and numbers escaped.

    Lists of text count as argument lists. Integers beyond 2**53 and NaN become text.
    """
    if isinstance(value, str):
        return redact(printable(value))
    if isinstance(value, dict):
        return {printable(str(k)): storable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if items and all(isinstance(i, str) for i in items):
            return redact_arguments([printable(i) for i in items])
        return [storable(i) for i in items]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return printable(str(value))
