"""Messages from templates: sandboxed, strict about missing values, every value escaped.

Three templates come with Firebreak; an operator's `home/templates/<name>.j2` takes precedence. The
first line of a template is `Subject: …`, the rest is Markdown. Templates cannot reach Python.
"""

import os
import re
import stat
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from firebreak.communication.context import context, due_at
from firebreak.errors import TemplateError
from firebreak.investigation.markdown import escape
from firebreak.records import Json, printable
from firebreak.yaml_source import ID_PATTERN

__all__ = ["AUDIENCES", "Message", "context", "render"]

AUDIENCES = {
    "initial_alert": "security and ML platform teams",
    "stakeholder_update": "leadership and product teams",
    "post_incident_report": "engineering, security and leadership",
}
MAX_TEMPLATE = 64 << 10  # bytes
MAX_MESSAGE = 256 << 10  # characters
MAX_SUBJECT = 200  # characters


@dataclass(frozen=True, slots=True)
class Message:
    """A message, ready to send.

    Attributes:
        subject: one line of plain text.
        text: Markdown.
        template: its template's name.
        audience: who should read it.
        due_at: when it must have gone out, aware UTC; None without such a rule.
    """

    subject: str
    text: str
    template: str
    audience: str
    due_at: datetime | None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also without `*`, `**` and `%`: a template needs no text of a gigabyte."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, _context: Any, operator: str, _left: Any, _right: Any) -> Any:
        """Refuse the operator."""
        raise SecurityError(f"operator {operator} is not allowed")


def render(template_name: str, context: Json, folder: Path | None = None) -> Message:
    """Fill in a template.

    Args:
        template_name: `initial_alert`, `stakeholder_update`, `post_incident_report`, or an own one.
        context: the values; `context(case)` makes them.
        folder: where the operator's own templates lie (`home/templates`); None for none.

    Raises:
        TemplateError: no such template; a value it needs is missing (named); it tries to leave the
            sandbox; it or its outcome is too large.
    """
    source = _source(template_name, folder)
    audience = AUDIENCES.get(template_name, "the incident's participants")
    try:
        template = _environment().from_string(source)
        parts, length = [], 0
        for part in template.generate({"audience": audience, **context}):
            length += len(part)
            if length > MAX_MESSAGE:
                raise TemplateError(template_name, f"makes more than {MAX_MESSAGE} characters")
            parts.append(part)
    except UndefinedError as error:
        raise TemplateError(template_name, f"needs a value: {_problem(error)}") from error
    except TemplateSyntaxError as error:
        raise TemplateError(template_name, f"line {error.lineno}: {_problem(error)}") from error
    except SecurityError as error:
        raise TemplateError(template_name, f"is not allowed: {_problem(error)}") from error
    except (
        JinjaError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
    ) as error:
        raise TemplateError(template_name, _problem(error)) from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError(template_name, "needs too much memory") from error
    first, _, rest = "".join(parts).partition("\n")
    if not first.startswith("Subject: "):
        raise TemplateError(template_name, "its first line must begin with 'Subject: '")
    subject = _plain(first.removeprefix("Subject: "))[:MAX_SUBJECT]
    text = re.sub(r"\n{3,}", "\n\n", rest).strip() + "\n"
    return Message(subject, text, template_name, audience, due_at(template_name, context))


def _environment() -> _Sandbox:
    environment = _Sandbox(
        autoescape=False,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("center", "indent", "pprint", "tojson", "xmlattr", "safe"):
        environment.filters.pop(name, None)
    for name in ("lipsum", "cycler", "joiner", "namespace"):
        environment.globals.pop(name, None)
    return environment


def _finalize(value: Any) -> Any:
    return value if isinstance(value, StrictUndefined) else escape(value)


def _source(name: str, folder: Path | None) -> str:
    if not re.fullmatch(ID_PATTERN, name):
        raise TemplateError(printable(name)[:100], "is not a template name")
    own = _own(name, folder / f"{name}.j2") if folder else None
    if own is not None:
        return own
    if name not in AUDIENCES:
        raise TemplateError(name, f"is unknown; known are {', '.join(AUDIENCES)}")
    return (files("firebreak.communication") / "messages" / f"{name}.j2").read_text("utf-8")


def _own(name: str, place: Path) -> str | None:
    """An operator's template; None when there is none."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise TemplateError(name, f"{place} is not a plain file")
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(MAX_TEMPLATE + 1)
        if len(data) > MAX_TEMPLATE:
            raise TemplateError(name, f"{place} is larger than {MAX_TEMPLATE} bytes")
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TemplateError(name, f"{place} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TemplateError(name, f"{place} is not UTF-8") from error


def _problem(error: Exception) -> str:
    return printable(str(error))[:300] or type(error).__name__


def _plain(subject: str) -> str:
    """A subject is plain text: the Markdown escapes of its values are taken back."""
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&#64;", "@"), ("&amp;", "&")):
        subject = subject.replace(entity, char)
    return printable(re.sub(r"\\([^\w\s])", r"\1", subject)).strip()
