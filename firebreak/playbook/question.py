"""A gate's question as people read it: what was found, what will be done, what that destroys."""

from collections.abc import Callable
from dataclasses import dataclass

from firebreak.incidents.case import Case
from firebreak.investigation.markdown import escape
from firebreak.records import Json, Severity, printable

MAX_FINDINGS = 12
MAX_AFFECTED = 20


@dataclass(frozen=True, slots=True)
class _Style:
    """How foreign text is made safe, and how headings and code look."""

    safe: Callable[[str], str]
    heading: str
    strong: str
    code: str


_MARKDOWN = _Style(escape, "## {}", "**{}**", "`{}`")
_PLAIN = _Style(printable, "{}", "{}", "{}")


def as_markdown(case: Case, question: Json) -> str:
    """The question as Markdown for the approval form; foreign text is escaped."""
    return "\n".join(_lines(case, question, _MARKDOWN))


def as_text(case: Case, question: Json) -> str:
    """The question as plain text for a terminal; control characters are escaped."""
    return "\n".join(_lines(case, question, _PLAIN))


def _lines(case: Case, question: Json, style: _Style) -> list[str]:
    title = f"{question['step']}: {case.id}, {style.safe(case.subject)}"
    return [
        _fill(style.heading, title),
        "",
        *_found(case, style),
        "",
        *_planned(question, style),
        "",
        *_rules(question, style),
    ]


def _found(case: Case, style: _Style) -> list[str]:
    findings = [e.body for e in case.entries() if e.kind == "finding.added"]
    findings.sort(key=lambda f: -Severity(f["severity"]).rank)
    lines = [_fill(style.strong, "Found"), ""]
    lines += [f"- {f['severity']}: {style.safe(f['message'])}" for f in findings[:MAX_FINDINGS]]
    if len(findings) > MAX_FINDINGS:
        lines.append(f"- and {len(findings) - MAX_FINDINGS} more, see the report")
    return lines


def _planned(question: Json, style: _Style) -> list[str]:
    lines = [_fill(style.strong, "If you approve"), ""]
    for plan in question["plans"]:
        for action in plan["actions"]:
            lines += _action(plan["step"], action, style)
    return lines


def _rules(question: Json, style: _Style) -> list[str]:
    people = ", ".join(question["people"]) or "nobody in the inventory holds the role"
    return [
        *_unanswerable(question, style),
        f"{_fill(style.strong, 'Who may answer')}: {people}; {question['quorum']} needed, "
        f"not {style.safe(question['initiator'])}, who started it.",
        "",
        f"{_fill(style.strong, 'Until')} {question['due']}; without an answer: "
        f"{question['otherwise']}.",
        "",
        f"Digest of this decision: {_fill(style.code, question['digest'])}",
    ]


def _unanswerable(question: Json, style: _Style) -> list[str]:
    """Said plainly when too few people may answer; the initiator never counts."""
    able, needed = set(question["people"]) - {question["initiator"]}, question["quorum"]
    if len(able) >= needed:
        return []
    roles = " or ".join(style.safe(role) for role in question["ask"])
    add = f"add a person with role {roles}"
    if able:
        text = f"too few people in the inventory can answer this: {add}"
    else:
        text = f"nobody in the inventory can answer this: {add}"
    return [
        f"{_fill(style.strong, text)}; only {len(able)} of {needed} needed people can.",
        "",
    ]


def _action(step: str, action: Json, style: _Style) -> list[str]:
    target = f" on {style.safe(action['target'])}" if action.get("target") else ""
    doing = "; ".join(style.safe(a) for a in action["actions"])
    lines = [f"- {_fill(style.code, step)}{target}: {doing}"]
    if action.get("destroys"):
        lost = f"  - destroys: {', '.join(action['destroys'])}"
        if action.get("uncaptured"):
            missing = _fill(style.strong, f"not captured: {', '.join(action['uncaptured'])}")
            lost += f" ({missing}; approving accepts that)"
        lines.append(lost)
    if action.get("affects"):
        affected = [style.safe(a) for a in action["affects"]]
        more = f" and {len(affected) - MAX_AFFECTED} more" if len(affected) > MAX_AFFECTED else ""
        lines.append(f"  - affects: {', '.join(affected[:MAX_AFFECTED])}{more}")
    return lines


def _fill(pattern: str, text: str) -> str:
    """Put text into one of our own patterns; never `str.format`, the text may hold braces."""
    return pattern.replace("{}", text)
