"""The frame of all pages: style, tables, sections; whatever is text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { --ink: #1c2430; --soft: #5a6778; --line: #dfe5ec; --strong-line: #c3ccd8;
  --accent: #1558b0; --ground: #f5f7fa; --panel: #fff; --hover: #f2f6fc; --code: #f2f5f9;
  --note: #fff7e6; --note-line: #f0d59a; color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 64px }
h1 { font-size: 1.75rem; line-height: 1.3; margin: 4px 0 10px; letter-spacing: -.01em;
  max-width: 34em; text-wrap: balance; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 0 0 4px } h3 { font-size: 1rem; margin: 20px 0 4px }
p { margin: 0 0 12px; max-width: 78ch; overflow-wrap: anywhere }
a { color: var(--accent) } .soft { color: var(--soft); font-size: .9rem }
.eyebrow { color: var(--accent); font-weight: 600; font-size: .85rem; margin: 0 }
section, .card { background: var(--panel); border: 1px solid var(--line); border-radius: 12px }
section { padding: 22px 24px; margin-top: 20px; min-width: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
  margin-top: 20px }
.card { padding: 14px 18px } .card b { display: block; font-size: 1.6rem; line-height: 1.25 }
.note { background: var(--note); border: 1px solid var(--note-line); border-radius: 10px;
  padding: 10px 16px; margin: 16px 0 0; max-width: none }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 20px }
figure { margin: 8px 0 0 }
.scroll { overflow-x: auto; margin-top: 8px }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums }
th, td { padding: 7px 8px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap }
th { font-weight: 600; vertical-align: bottom; white-space: normal }
thead th { border-bottom: 2px solid var(--strong-line) }
.text { text-align: left }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 8em }
td.text + td.text { min-width: 13em }
tbody tr:hover { background: var(--hover) }
details { margin-top: 14px } summary { cursor: pointer; font-weight: 600 }
pre { background: var(--code); border-radius: 8px; padding: 12px 14px; margin: 8px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem }
@media (max-width: 900px) { .pair { grid-template-columns: minmax(0, 1fr) } }
@media (max-width: 600px) {
  main { padding: 20px 12px 40px } section { padding: 16px 14px } h1 { font-size: 1.35rem }
  .cards { grid-template-columns: 1fr 1fr; gap: 10px } .card { padding: 10px 12px }
  .card b { font-size: 1.3rem }
}
"""


class Markup(str):
    """Text that is HTML already; every other text is escaped."""


def document(title: str, body: str, *, head: str, style: str) -> str:
    """The whole page; `body` and `head` are HTML already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
{head}
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def security(scripts: str) -> str:
    """What the browser lets the page do: no request to anywhere, and only these scripts."""
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def section(title: str, *parts: str) -> str:
    """One box of the page; the parts are HTML already."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    n_text: int = 1,
    member_of: Sequence[int] = (),
) -> str:
    """A table whose first `n_text` columns are text and the others numbers; cells are escaped.

    Args:
        caption: Above it.
        columns: Their names; none: no head.
        rows: A text for each column.
        n_text: Columns of text.
        member_of: Of each row the member of the front that it is about, if that can be chosen.
    """

    def cell(tag: str, column: int, text: str) -> str:
        scope = {"th": ' scope="col"', "td": ""}[tag]
        markup = text if isinstance(text, Markup) else escape(text)
        return f"<{tag}{scope}{' class=text' if column < n_text else ''}>{markup}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(columns))
    chooses = [f' data-member="{place}"' for place in member_of]
    body = "".join(
        f"<tr{chooses[n] if chooses else ''}>"
        f"{''.join(cell('td', i, text) for i, text in enumerate(row))}</tr>\n"
        for n, row in enumerate(rows)
    )
    # The caption stands outside of the box that scrolls sideways on a narrow screen.
    return (
        f"{f'<p class=soft>{escape(caption)}</p>' if caption else ''}"
        f'<div class="scroll" tabindex="0"><table aria-label="{escape(caption)}">'
        f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div>"
    )


def side_by_side(parts: Sequence[str]) -> str:
    """Sections in two columns where the screen is wide enough."""
    return f'<div class="pair">{"".join(parts)}</div>' if len(parts) > 1 else "".join(parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of `bars`.

    Attributes:
        label: Before the bar.
        shares: Of the track's width, 0 to 1; the second one is paler.
        value: Behind the bar.
        more: Behind the value, softer.
        mark: A share of the width that is marked; None: none.
        is_faint: Whether it matters less than the others.
    """

    label: str
    shares: tuple[float, ...]
    value: str
    more: str = ""
    mark: float | None = None
    is_faint: bool = False


def bars(rows: Sequence[Bar]) -> str:
    """Labelled bars below each other; all text is escaped. No rows: nothing."""
    cells = []
    for row in rows:
        pieces = "".join(
            f'<i style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"'
            f"{' class=more' if i else ''}></i>"
            for i, share in enumerate(row.shares)
        )
        if row.mark is not None:
            pieces += f'<u style="left:{100 * min(max(row.mark, 0.0), 1.0):.1f}%"></u>'
        faint = " faint" if row.is_faint else ""
        more = f" {escape(row.more)}" if row.more else ""
        cells.append(
            f'<div class="bar{faint}"><span>{escape(row.label)}</span>'
            f'<div class="track">{pieces}</div><em><b>{escape(row.value)}</b>{more}</em></div>'
        )
    return f'<div class="bars">{"".join(cells)}</div>' if cells else ""
