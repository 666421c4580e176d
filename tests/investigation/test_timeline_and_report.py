"""Timeline, recommendations and the report, with hostile text in every place."""

import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from firebreak.incidents.case import Case, working_on
from firebreak.incidents.journal import Entry
from firebreak.investigation.logs import analyse_log
from firebreak.investigation.markdown import escape
from firebreak.investigation.recommend import recommend
from firebreak.investigation.report import build_report, write_report
from firebreak.investigation.timeline import containment, duration, timeline, times
from firebreak.records import FindingType
from incident_cases import HOSTILE, finding


def entry(seq: int, second: int, kind: str, **body: Any) -> Entry:
    """A journal entry at a second of one minute."""
    return Entry(seq, "0" * 64, f"2026-01-02T03:04:{second:02d}.000Z", "firebreak", kind, body)


def respond(case: Case, text: str = "as planned") -> None:
    """A whole response, with a text of the attacker wherever one can stand."""
    case.add_findings([finding(f"{text} was changed", evidence={"file": text})])
    case.add_findings(
        [finding("modified", evidence={"file": "w", "modified_at": "2026-01-01T00:00:00Z"})]
    )
    log = case.inventory.home.parent / "build.log"
    log.write_text(f"curl {text}\n")
    for one in analyse_log(log, "fraud"):
        case.add_findings([one])
    case.add_evidence("processes", f"{text}.json", {"a": 1}, source=text)
    case.append("evidence.failed", {"class": "memory", "name": text, "error": text})
    case.append(
        "response.started", {"playbook": "tampered-model", "digest": "d", "initiator": text}
    )
    with working_on("isolate"):
        done = {"done": [text], "probe": {"target": text, "exposure": "unproven", "detail": text}}
        case.perform("isolate", f"process:///run/{text}", lambda: done)
    answer = {"step": "stop-approval", "decision": "approve", "approver": text, "reason": text}
    case.append("gate.answered", {**answer, "proof": "unproven"})
    case.append("gate.answered", {**answer, "decision": "reject", "proof": "one-time code"})
    judged = [
        {"version": text, "accepted": False, "reasons": [text, "unsigned"], "verification": None}
    ]
    case.append("step.finished", {"step": "rollback", "result": {"candidates": judged}})
    case.append("something.new", {text: [text, {"deep": text}]})
    case.perform("verify-served", "process:///run/fraud.pid", lambda: {"ok": True})


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_times_come_from_the_journal() -> None:
    """Contained when the last isolation finished, restored when the served copy was verified."""
    found = times(
        [
            entry(0, 0, "incident.opened", subject="m"),
            entry(
                1,
                1,
                "finding.added",
                time="2026-01-02T03:03:50Z",
                evidence={"modified_at": "2026-01-02T03:02:50Z"},
            ),
            entry(2, 2, "action.finished", action="isolate", target="a"),
            entry(3, 9, "action.finished", action="isolate", target="b"),
            entry(4, 20, "action.finished", action="stop", target="a"),
            entry(5, 50, "action.finished", action="verify-served", target="a"),
        ]
    )
    assert found["contained_at"].endswith("04:09.000Z")
    assert (found["seconds_to_detect"], found["seconds_to_contain"]) == (60, 9)
    assert found["seconds_to_restore"] == 50


def test_a_target_that_is_not_isolated_keeps_the_incident_uncontained() -> None:
    """One of two is not contained, and no time is claimed."""
    found = times(
        [
            entry(0, 0, "incident.opened", subject="m"),
            entry(1, 2, "action.finished", action="isolate", target="a"),
            entry(2, 3, "action.started", action="isolate", target="b"),
            entry(3, 4, "action.failed", action="isolate", target="b", error="x"),
        ]
    )
    assert found["contained_at"] is None
    assert found["seconds_to_contain"] is None


def test_what_was_seen_serving_is_not_contained_and_what_nobody_saw_is_not_proven() -> None:
    """The receipt of an action is not the proof of its effect."""
    done = [
        entry(0, 0, "incident.opened", subject="m"),
        entry(1, 2, "action.finished", action="isolate", target="a"),
    ]
    serving = entry(2, 3, "containment.probed", target="a", exposure="serving", detail="200")
    unproven = entry(3, 4, "containment.probed", target="a", exposure="unproven", detail="?")
    released = entry(2, 3, "action.started", action="release", target="a")
    assert times([*done, serving])["contained_at"] is None
    assert times([*done, unproven])["contained_at"] is not None
    assert containment([*done, unproven]).unproven == {"a"}
    assert containment([*done, released, serving]).contained == {"a"}


def test_every_kind_is_a_readable_line_and_unknown_kinds_are_shown(case: Case) -> None:
    """No entry is left out, none spans lines, and file changes sort before the detection."""
    respond(case, HOSTILE)
    events = timeline(case.entries())
    assert len(events) == len(case.entries()) + 1
    assert events[0].kind == "file.changed"
    assert all(e.text and e.text.isprintable() for e in events)
    assert any(e.text.startswith("something.new") for e in events)


@pytest.mark.parametrize(
    "kind", ["finding.added", "action.finished", "gate.answered", "step.failed", "odd"]
)
def test_an_entry_without_its_fields_is_still_shown(kind: str) -> None:
    """A journal of another release does not break the timeline."""
    assert timeline([entry(0, 0, kind)])[0].text
    assert timeline([entry(0, 0, kind, evidence=[1], receipt=3, message=None)])[0].text


def test_durations_are_readable() -> None:
    """From seconds to days, and unknown in so many words."""
    seconds = (None, 2.5, 59, 61, 3661, 100_000, -61)
    assert [duration(s) for s in seconds] == [
        *("not yet known", "2.5 s", "59 s", "1 min 01 s", "1 h 01 min", "1 d 03 h", "-1 min 01 s")
    ]


def test_recommendations_hold_the_four_that_always_apply_and_the_models_secrets(case: Case) -> None:
    """Sign, safetensors only, review the pipeline's models, rotate its credentials."""
    text = " ".join(r.text for r in recommend([finding()], case.model))
    for words in (
        "Sign every",
        "safetensors only",
        "same pipeline",
        "HF_TOKEN, registry robot",
        "read-only",
    ):
        assert words in text
    default = " ".join(r.text for r in recommend([], None))
    assert "registry token, inference API keys, build-pipeline secrets" in default


@pytest.mark.parametrize("kind", list(FindingType))
def test_every_finding_type_has_recommendations_with_references(kind: FindingType) -> None:
    """Each one names the guidance it rests on."""
    found = recommend([finding(kind=kind)], None)
    assert len(found) >= (4 if kind is FindingType.UNSIGNED else 5)
    assert all(r.references for r in found)


@pytest.mark.parametrize(
    ("verdict", "exposed"),
    [
        ("untrusted_signer", True),
        ("wrong_identity", True),
        ("tampered", False),
        ("unverifiable", False),
    ],
)
def test_a_key_is_called_exposed_only_when_its_signature_is_in_doubt(
    case: Case, verdict: str, exposed: bool
) -> None:
    """Files that differ from a signed manifest say nothing about the key that signed it."""
    seen = finding(kind=FindingType.SIGNATURE_INVALID, evidence={"verdict": verdict})
    told = " ".join(r.text for r in recommend([seen], case.model))
    assert ("signing key as exposed" in told) is exposed


def test_the_page_holds_no_markup_of_the_attacker(case: Case) -> None:
    """Scripts and links in names, reasons and log lines are text; nothing is loaded."""
    respond(case, HOSTILE)
    html = build_report(case).html
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "link", "b"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert not any(n.startswith("on") or n in ("style", "src") for n, _ in page.attributes)
    assert all(v and v.startswith("#") for n, v in page.attributes if n == "href")
    assert "\x1b" not in html


def test_the_page_allows_its_own_style_sheet_and_nothing_else(case: Case) -> None:
    """The policy's digest is that of the style sheet in the page."""
    import base64

    html = build_report(case).html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html


def test_the_markdown_holds_no_markup_of_the_attacker(case: Case) -> None:
    """Rendered by a CommonMark reader with tables and raw HTML on, nothing of it takes effect."""
    respond(case, HOSTILE)
    respond(case, "```mermaid")
    respond(
        case, "javascript:x](http://evil.example) <img src=x onerror=1> www.evil.example ![a](b)"
    )
    markdown = build_report(case).markdown
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = Page(reader.render(markdown))
    assert not {"script", "img", "a", "code", "pre", "em"} & set(page.tags)
    assert page.tags.count("h1") == 1
    assert "<script>alert(1)</script>" in page.text
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(columns) == 1, table


@pytest.mark.parametrize(
    "text",
    [
        "- item",
        "1. item",
        "# head",
        "> quote",
        "    code",
        "~~~",
        "---",
        "===",
        "$x$",
        "@team",
        "_a_ __b__ a_b_",
    ],
)
def test_escaped_text_is_one_plain_paragraph(text: str) -> None:
    """Whatever a line begins with, a reader sees the same characters."""
    page = Page(MarkdownIt("commonmark", {"html": True}).render(escape(text)))
    assert page.tags == ["p"]
    assert page.text.strip() == text.strip()


def test_unproven_identities_and_probes_are_visible(case: Case) -> None:
    """Both forms say who could not be proven and what could not be shown."""
    respond(case, "mallory")
    report = build_report(case)
    for text in (report.markdown, report.html):
        assert "identity unproven" in text
        assert "proven by one-time code" in text
        assert "could not tell whether it serves" in text
        assert "could not be captured" in text
        assert "Rollback candidates" in text
        assert "AML.T0018@5.6" in text or "AML.T0018&#64;5.6" in text
        for name in (
            "NIST SP 800-61r3",
            "NIST AI RMF 1.0",
            "MITRE ATLAS",
            "OWASP LLM03",
            "Google SAIF",
        ):
            assert name in text


def test_an_empty_incident_still_has_a_report(case: Case) -> None:
    """What is not known is said, not left out."""
    report = build_report(case)
    assert "No findings are recorded." in report.markdown
    assert "not yet known" in report.html
    assert "Rollback candidates" not in report.html


def test_a_report_is_written_whole_and_its_digests_are_right(case: Case) -> None:
    """Writing twice replaces, leaves no part files, and journals nothing."""
    respond(case)
    before = len(case.entries())
    write_report(case)
    written = write_report(case)
    assert sorted(p.name for p in case.folder.iterdir()) == ["report.html", "report.md"]
    assert hashlib.sha256(written.html.read_bytes()).hexdigest() == written.html_sha256
    assert hashlib.sha256(written.markdown.read_bytes()).hexdigest() == written.markdown_sha256
    assert len(case.entries()) == before
