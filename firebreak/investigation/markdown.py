r"""Foreign text made safe inside Markdown: file names, log lines and model cards are hostile.

Escaped text shows as itself in CommonMark, GitHub and chat, on one line: it opens no tag, fence,
table cell, heading, link, mention or formula. What cannot take effect stays as it is, because
messages are read as plain text too: an underscore between letters, a parenthesis or exclamation
mark that no bracket makes a link, an `@` inside `fraud@2.1`.
"""

import re

from firebreak.records import printable

_ACTIVE = re.compile(
    r"[\\`*\[\]#|~$&<>]|(?<=\])\(|!(?=\[)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    r"|(?<![A-Za-z0-9])@|@(?=[\w.-]{0,255}\.[A-Za-z])"
    r"|(?<=\bwww)\.|(?<=\bhttp):|(?<=\bhttps):|(?<=\bftp):|(?<=\bxmpp):|(?<=\bmailto):",
    re.IGNORECASE,
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_BLOCK = re.compile(r"^(?:([-+=:])|(\d{1,9})([.)])(?=\s|$))")


def escape(value: object) -> str:
    r"""Any value as one line of inert Markdown.

    Example:
        >>> escape("a|b <script> [x](http://y) model_file")
        'a\\|b &lt;script&gt; \\[x\\]\\(http\\://y) model_file'
    """
    text = printable(str(value)).strip()
    text = _ACTIVE.sub(lambda m: _ENTITIES.get(m.group(), "\\" + m.group()), text)
    return _BLOCK.sub(lambda m: f"{m[2] or ''}\\{m[1] or m[3]}", text)
