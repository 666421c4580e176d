r"""Foreign text made safe inside Markdown: file names, log lines and model cards are hostile.

Escaped text shows as itself in CommonMark, GitHub and chat, on one line: it opens no tag, fence,
table cell, heading, link, mention or formula.
"""

import re

from firebreak.records import printable

_ESCAPED = re.compile(r"[\\`*\[\]()#|!~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_LINK = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_BLOCK = re.compile(r"^(?:([-+=:])|(\d{1,9})(\.)(?=\s|$))")


def escape(value: object) -> str:
    r"""Any value as one line of inert Markdown.

    An underscore between letters or digits cannot start emphasis and stays as it is.

    Example:
        >>> escape("a|b <script> [x](http://y) model_file")
        'a\\|b &lt;script&gt; \\[x\\]\\(http\\://y\\) model_file'
    """
    text = " ".join(printable(str(value)).split(" ")).strip()
    text = _ESCAPED.sub(lambda m: "\\" + m.group(), text)
    text = "".join(_ENTITIES.get(c, c) for c in text)
    text = _LINK.sub(lambda m: "\\" + m.group(), text)
    return _BLOCK.sub(lambda m: f"{m[2] or ''}\\{m[1] or m[3]}", text)
