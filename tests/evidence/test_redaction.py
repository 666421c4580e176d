"""Secrets are masked, everything else stays readable."""

import pytest

from firebreak.evidence.redaction import MASK, redact, redact_arguments, storable
from firebreak.records import canonical


@pytest.mark.parametrize(
    "text",
    [
        "--token=SECRET",
        "--token SECRET",
        "serve --api-key SECRET --port 80",
        "-password SECRET",
        "password=SECRET",
        "DB_PASSWORD='SECRET with space'",
        'api_key: "SECRET"',
        '{"client_secret": "SECRET", "x": 1}',
        "?user=x&access_key=SECRET&y=1",
        "Authorization: Bearer SECRETSECRET",
        "authorization: Basic SECRETSECRET==",
        "curl -H 'Bearer SECRETSECRET' x",
        "postgresql://user:SECRET@db/x",
        "https://SECRET@github.com/x",
        "hf_SECRETSECRETSECRET",
        "sk-SECRETSECRETSECRET",
        "ghp_SECRETSECRETSECRET",
        "id AKIASECRETSECRET12",
        "eyJSECRETSECRET.SECRETSECRET.SECRET",
        "-----BEGIN RSA PRIVATE KEY-----\nSECRET\n-----END RSA PRIVATE KEY-----",
        "AWS_SECRET_ACCESS_KEY=SECRET",
        "HF_TOKEN=SECRET",
        "ENCRYPTION_KEY=SECRET",
        "SIGNING_KEY=SECRET",
        "curl -u admin:SECRET https://hub/x",
        "curl --user 'admin:SECRET SECRET' https://hub/x",
        "https://hooks.slack.com/services/T0/B0/SECRET",
        "GET /bucket?X-Amz-Signature=SECRET&x=1",
        "https://blob/x?sv=1&sig=SECRET%3D",
        "sig=SECRETSECRETSECRETSECRET",
        "sk_live_SECRETSECRET",
        "https://user:pa/SECRET@host/x",
        "postgres://u:p@SECRET@h/db",
        r'{"token": "a\"SECRET", "x": 1}',
        r"{\"token\": \"SECRET\", \"x\": 1}",
        'password="SECRET cut off',
    ],
)
def test_a_secret_is_masked(text):
    """Its value is gone, and the reader sees that something was."""
    assert "SECRET" not in redact(text).replace("AWS_SECRET_ACCESS", "")
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "--max-tokens 5 --tokenizer /models/x",
        "tokenizer=bert author: me",
        "passthrough=1 authority=x",
        "python -m server --port 80 --model /models/chat",
        "the token expired after 5 minutes",
        "https://hub.example/models/x?rev=3",
        "task-1234567890 disk-1234567890",
        "2026-01-02T03:04:05Z GET /health 200",
        "docker run -u 1000:1000 serving",
        "http://host:8080/a/@scope/x",
        "sort_key=a primary_key=b sig=9",
        "",
    ],
)
def test_harmless_text_is_left_alone(text):
    """Evidence that says [redacted] everywhere says nothing."""
    assert redact(text) == text


def test_option_and_value_may_be_two_arguments():
    """The value is the argument after the option, whatever it looks like."""
    arguments = ["serve", "--hf-token", "-looks-like-an-option", "--port", "80"]
    assert redact_arguments(arguments) == ["serve", "--hf-token", MASK, "--port", "80"]


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        (["x", "--token=", "abc"], ["x", "--token=", MASK]),
        (["curl", "-u", "admin:hunter2"], ["curl", "-u", f"admin:{MASK}"]),
        (["/usr/bin/curl", "-uadmin:hunter2"], ["/usr/bin/curl", f"-uadmin:{MASK}"]),
        (["sh", "-c", "curl -u a:hunter2 x"], ["sh", "-c", f"curl -u a:{MASK} x"]),
        (["docker", "run", "-u", "1000:1000"], ["docker", "run", "-u", "1000:1000"]),
    ],
)
def test_a_password_is_masked_in_an_argument_list(arguments, masked):
    """Also after an option that ends in `=`, and behind the user name of curl."""
    assert redact_arguments(arguments) == masked


def test_masking_twice_is_masking_once():
    """What is masked stays readable as masked."""
    once = redact("--token abc --password=x Bearer abcdefgh https://u:p@h/")
    assert redact(once) == once


def test_a_long_hostile_line_is_masked_in_linear_time():
    """A megabyte of almost-names does not stall the capture."""
    assert redact("pass-" * 20_000)
    assert redact("tokentoken" * 10_000)
    assert redact("a://" * 20_000)
    assert redact("x://u:" * 20_000)
    assert redact('token="' * 20_000)
    assert redact("-u a" * 20_000)


def test_foreign_values_become_journal_json():
    """Huge integers, NaN, lone surrogates and odd types can be stored in canonical form."""
    value = {
        "big": 2**63,
        "nan": float("nan"),
        "text": "bad\udcff\x1b[2J",
        "flag": True,
        "none": None,
        "list": ["--password", "x"],
        "tuple": (1, {"token": "y"}),
        3: {b"bytes"},
    }
    stored = storable(value)
    assert canonical(stored)
    assert stored["big"] == str(2**63)
    assert stored["text"] == "bad\\xff\\x1b[2J"
    assert stored["list"] == ["--password", MASK]
    assert stored["flag"] is True
