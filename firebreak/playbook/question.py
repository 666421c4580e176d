"""A gate's question as people read it: what was found, what will be done, what that destroys."""

from firebreak.incidents.case import Case
from firebreak.investigation.markdown import escape
from firebreak.records import Json, Severity

MAX_FINDINGS = 12


def as_markdown(case: Case, question: Json) -> str:
    """The question as Markdown for the approval form and the terminal; foreign text is escaped."""
    entries = case.entries()
    findings = [e.body for e in entries if e.kind == "finding.added"]
    findings.sort(key=lambda f: -Severity(f["severity"]).rank)
    lines = [f"## {question['step']}: {case.id}, {escape(case.subject)}", "", "**Found**", ""]
    lines += [f"- {f['severity']}: {escape(f['message'])}" for f in findings[:MAX_FINDINGS]]
    if len(findings) > MAX_FINDINGS:
        lines.append(f"- and {len(findings) - MAX_FINDINGS} more, see the report")
    lines += ["", "**If you approve**", ""]
    for plan in question["plans"]:
        for action in plan["actions"]:
            lines += _action(plan["step"], action)
    lines += [
        "",
        f"**Who may answer**: {', '.join(question['people']) or 'nobody in the inventory'}, "
        f"{question['quorum']} of them, not {escape(question['initiator'])} who started it.",
        f"**Until** {question['due']}; without an answer: {question['otherwise']}.",
        "",
        f"Digest of this decision: `{question['digest']}`",
    ]
    return "\n".join(lines)


def _action(step: str, action: Json) -> list[str]:
    target = f" on {escape(action['target'])}" if action.get("target") else ""
    lines = [f"- `{step}`{target}: {'; '.join(escape(a) for a in action['actions'])}"]
    if action.get("destroys"):
        lost = f"  - destroys: {', '.join(action['destroys'])}"
        if action.get("uncaptured"):
            lost += f" (**not captured: {', '.join(action['uncaptured'])}**; approving accepts it)"
        lines.append(lost)
    if action.get("affects"):
        lines.append(f"  - affects: {', '.join(escape(a) for a in action['affects'][:20])}")
    return lines
