"""Text as man(7) source: sections of paragraphs, lists of terms, and literal blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def page(name: str, section: int, summary: str) -> list[str]:
    """The head of a page. It has no date, so that a build can be repeated byte for byte."""
    return [
        f'.TH "{_quoted(name.upper())}" {section} "" "cfsfuse" "cfsfuse manual"',
        ".nh",
        ".SH NAME",
        f"{text(name)} \\- {text(summary)}",
    ]


def heading(title: str) -> list[str]:
    """The head of a section."""
    return [f'.SH "{_quoted(title.upper())}"']


def paragraphs(source: str) -> list[str]:
    """Text in paragraphs parted by empty lines; a paragraph that is indented is literal."""
    lines: list[str] = []
    for block in source.strip("\n").split("\n\n"):
        if block.startswith("    "):
            lines += literal([line[4:] for line in block.split("\n")])
        else:
            lines += [".PP", text(" ".join(block.split()))]
    return lines


def literal(lines: Iterable[str]) -> list[str]:
    """Lines shown as they are."""
    return [".PP", ".RS 4", ".EX", *map(text, lines), ".EE", ".RE"]


def terms(rows: Iterable[tuple[str, str]]) -> list[str]:
    """A list of terms, in bold, and what each means."""
    lines = []
    for term, meaning in rows:
        lines += [".TP", f"\\fB{text(term)}\\fR", text(meaning or "-")]
    return lines


def see_also(pages: Sequence[str]) -> list[str]:
    """The last section: `cfs(1), mount(8)`."""
    shown = []
    for name in pages:
        head, _, section = name.partition("(")
        shown.append(f"\\fB{text(head)}\\fR({section}")
    return [*heading("See also"), ", ".join(shown)]


def finish(lines: Iterable[str]) -> str:
    """The source of the page. A heading begins a paragraph by itself."""
    shown: list[str] = []
    for line in lines:
        if line != ".PP" or not shown[-1].startswith((".SH", ".SS")):
            shown.append(line)
    return "\n".join(shown) + "\n"


def text(source: str) -> str:
    """`source` as one line of input that means nothing but itself."""
    # `\(aq` and the like: a plain quote or hyphen is set as a typographic one, which cannot be
    # copied into a shell.
    escaped = source.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = escaped.replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _quoted(source: str) -> str:
    return text(source).replace('"', '""')
