"""The incident report, as Markdown and as one self-contained HTML page.

Both are drawn straight from the journal's data; the attacker's text is escaped for each form on its
own: HTML by Jinja2's autoescape, Markdown by `markdown.escape`. Markdown is never turned into HTML.
The page loads nothing: its content security policy allows its own style sheet and nothing else.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from firebreak.incidents.case import Case
from firebreak.investigation.markdown import escape
from firebreak.investigation.recommend import REFERENCES, recommend
from firebreak.investigation.summary import Summary, summarise
from firebreak.investigation.timeline import between, duration
from firebreak.records import FindingType, Json, now, parse_timestamp, printable, timestamp

MAX_ROWS = 2000  # of one table; the journal has all of them
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Report:
    """A report in both forms."""

    markdown: str
    html: str


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where a report lies, and the sha256 of each file."""

    markdown: Path
    html: Path
    markdown_sha256: str
    html_sha256: str

    def to_json(self) -> Json:
        """The places and digests, for a step's result."""
        return {
            "markdown": {"path": str(self.markdown), "sha256": self.markdown_sha256},
            "html": {"path": str(self.html), "sha256": self.html_sha256},
        }


def build_report(case: Case) -> Report:
    """The report of an incident as its journal stands now.

    Raises:
        JournalCorruptError: the journal does not verify; a report from it would be worthless.
    """
    summary = summarise(case)
    data = _data(summary, str(case.blobs.root))
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    html = _environment(html=True).get_template("report.html.j2")
    markdown = _environment(html=False).get_template("report.md.j2")
    return Report(
        markdown=markdown.render(data),
        html=html.render(
            {**data, "style": Markup(style), "style_digest": digest},  # noqa: S704 - our own file
        ),
    )


def write_report(case: Case) -> WrittenReport:
    """Write `report.md` and `report.html` into the incident's folder, each atomically.

    They are not evidence and not journaled: whoever asks again gets the report of that moment.

    Raises:
        JournalCorruptError: the journal does not verify.
        OSError: the folder cannot be written; an earlier report is then still whole.
    """
    report = build_report(case)
    places = case.folder / "report.md", case.folder / "report.html"
    digests = [
        _write(place, text)
        for place, text in zip(places, (report.markdown, report.html), strict=True)
    ]
    return WrittenReport(*places, *digests)


@cache
def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("firebreak.investigation", "templates"),
        autoescape=html,  # noqa: S701 - Markdown has its own escape, in finalize
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean if html else escape,
    )
    environment.filters["duration"] = duration
    environment.filters["moment"] = readable_time
    environment.filters["size"] = readable_size
    return environment


def _clean(value: Any) -> Any:
    """Controls and direction marks are made visible; markup stays for autoescape to handle."""
    return printable(value) if type(value) is str else value


def readable_time(text: str | None) -> str:
    """An RFC 3339 time as `2026-01-02 03:04:05 UTC`; `not yet known` for None."""
    if text is None:
        return "not yet known"
    try:
        return f"{parse_timestamp(text):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, TypeError):
        return str(text)


def readable_size(size: Any) -> str:
    """Bytes as people read them, such as `1.5 MiB`."""
    if not isinstance(size, int | float):
        return "unknown"
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def _data(summary: Summary, evidence_place: str) -> Json:
    model = summary.model
    return {
        "s": summary,
        "severity": summary.severity.value if summary.severity else "unknown",
        "generated": timestamp(now()),
        "model": _model(summary),
        "findings": summary.findings[:MAX_ROWS],
        "log_lines": list(_log_lines(summary)),
        "events": summary.events[:MAX_ROWS],
        "evidence": summary.evidence[:MAX_ROWS],
        "max_rows": MAX_ROWS,
        "evidence_place": evidence_place,
        "recommendations": recommend(summary.findings, model),
        "references": REFERENCES,
        "bar": _bar(summary.times),
    }


def _model(summary: Summary) -> list[tuple[str, str]]:
    model = summary.model
    if model is None:
        return [("Subject", summary.subject)]
    return [
        ("Model", model.id),
        ("Version", model.version),
        ("Path", str(model.path)),
        ("Critical", "yes" if model.critical else "no"),
        ("Owner", model.owner or "unknown"),
        ("Targets", ", ".join(t.uri for t in model.targets) or "none"),
        ("Reference", str(model.reference) if model.reference else "none"),
        ("Pipeline logs", ", ".join(map(str, model.pipeline_logs)) or "none"),
    ]


def _log_lines(summary: Summary) -> Iterator[Json]:
    """The log lines that findings show, when they have the form that `analyse_log` writes."""
    for finding in summary.findings:
        lines = finding.evidence.get("lines")
        if finding.type is FindingType.SUSPICIOUS_LOG and isinstance(lines, list):
            shown = [
                {"number": line.get("line", "unknown"), "text": line.get("text", "unknown")}
                for line in lines
                if isinstance(line, dict)
            ]
            named = {k: finding.evidence.get(k, "unknown") for k in ("path", "pattern", "count")}
            yield {**named, "shown": shown}


def _bar(moments: Json) -> Json:
    """The picture's marks and stretches: evenly spaced, with the real durations written on them."""
    names = (
        ("changed", "changed_at"),
        ("detected", "detected_at"),
        ("contained", "contained_at"),
        ("restored", "restored_at"),
    )
    shown = [(n, moments[k]) for n, k in names if n != "changed" or moments[k]]
    step = 760 // max(len(shown) - 1, 1)
    marks = [
        {"x": 120 + i * step, "name": name, "time": time, "reached": time is not None}
        for i, (name, time) in enumerate(shown)
    ]
    stretches = [
        {
            "x": a["x"],
            "width": step,
            "middle": a["x"] + step // 2,
            "name": "-".join((a["name"], b["name"])),
            "reached": b["reached"],
            "text": duration(between(a["time"], b["time"])) if b["reached"] else "not yet",
        }
        for a, b in pairwise(marks)
    ]
    return {"marks": marks, "stretches": stretches}


def _write(place: Path, text: str) -> str:
    """Write a file whole or not at all; the bytes' sha256."""
    data = text.encode("utf-8")
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()
