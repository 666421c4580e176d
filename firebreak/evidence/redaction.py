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
    r"|(?:private|account|encryption|signing|master|secret|service|shared|hmac|jwt|ssh)[_-]?key"
    r"|credentials?|authorization|auth|cookie|session[_-]?key)"
    r"(?:[_-](?:id|value|b64|base64))?"
)
_OPTION = re.compile(rf"-{{1,2}}{_NAMES}=?", re.IGNORECASE)
_USER_OPTION = re.compile(r"-[uU]|--(?:proxy-)?user=?")
# user:password of curl, but neither the numbers of `docker run -u 1000:1000` nor a URL
_USER = r"(?!\d+:\d+(?![^\s'\"]))[^\s:'\"]{1,64}:(?!//)"
_USER_ARGUMENT = re.compile(rf"({_USER}).+", re.DOTALL)
_CURL_USER = re.compile(rf"(-[uU]{_USER}).+", re.DOTALL)
_PATTERNS = (
    (  # up to the last @ of the authority; a password may hold a slash, a port before a path not
        re.compile(
            r"(\b[a-z][a-z0-9+.-]{0,15}://)(?:[^/?#\s'\"]+@"
            r"|[^/:@\s'\"]{1,64}:(?!\d{1,5}[/?#])[^\s'\"]{1,512}@)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}@",
    ),
    (
        re.compile(
            r"((?:hooks\.slack\.com/(?:services|workflows|triggers)|discord(?:app)?\.com/api/webhooks"
            r"|webhook\.office\.com/webhookb2)/)[^\s'\"<>]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (
        re.compile(
            r"((?:[?&]sig(?:nature)?|(?<![\w-])x-(?:amz|goog)-(?:signature|credential))=)[^\s&;'\"]+"
            r"|((?<![\w-])sig=)[\w%+/=.-]{16,}",
            re.IGNORECASE,
        ),
        rf"\1\2{MASK}",
    ),
    (
        re.compile(
            r"((?<!\S)(?:-[uU]|--(?:proxy-)?user)(?:\s+|=)(?P<quote>['\"])?"
            rf"{_USER})(?(quote)[^'\"\n]+|[^\s'\"]+)"
        ),
        rf"\1{MASK}",
    ),
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
            rf"((?<![\w.-])-{{0,2}}{_NAMES}\\*['\"]?\s*[=:]\s*)"
            rf"(?!(?:Bearer|Basic|Token|Digest)\s)(?!\[redacted\])"
            r"(\\+\"[^\"]*\"|\"(?:[^\"\\]|\\[\s\S])*(?:\"|\Z)|'[^']*'|[^\s&;,'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"((?<!\S)-{{1,2}}{_NAMES}\s+)(?!-)(\S+)", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{8,}|[sr]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_\w{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}"
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

    Masked: `--token X`, `password=X`, `api-key: X` and their like, `Bearer X`, `-u user:X`,
    credentials, signatures and webhook paths in URLs, well-known token forms (`hf_`, `sk-`, `ghp_`,
    `sk_live_`, `AKIA`, JWT) and PEM private keys.

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
    curl = bool(arguments) and arguments[0].rpartition("/")[2] == "curl"
    before = ""
    for argument in arguments:
        if argument and _OPTION.fullmatch(before):
            clean.append(MASK)
        else:
            joined = _CURL_USER.fullmatch(argument) if curl else None
            apart = _USER_ARGUMENT.fullmatch(argument) if _USER_OPTION.fullmatch(before) else None
            user = apart or joined
            clean.append(user[1] + MASK if user else redact(argument))
        before = argument
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
