"""One HTML page that stands alone, and the few shapes that our pages are drawn with.

Knows how to draw; knows neither plans nor models. Everything is inside the page: no script, no
font, no picture from elsewhere. Titles and cells are escaped here; what is named HTML is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>
:root{color-scheme:light dark;--ink:#1d2530;--soft:#5b6675;--paper:#f6f5f1;--card:#fff;
--line:#e0ddd4;--hot:#b3432b;--hotsoft:#f8e3dc;--keep:#2c6e63;--keepsoft:#dcefe9;--bar:#3b6ea8}
@media(prefers-color-scheme:dark){:root{--ink:#e8e6df;--soft:#a3abb6;--paper:#14181d;
--card:#1c2229;--line:#323a44;--hot:#f0937b;--hotsoft:#45261e;--keep:#7fcdbd;--keepsoft:#1b3a35;
--bar:#7faee0}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:clamp(1.5rem,5vw,2.2rem);line-height:1.2;margin:.2rem 0 .6rem;text-wrap:balance}
h2{font-size:1.1rem;margin:0 0 .4rem}p{margin:.3rem 0 .8rem;max-width:62ch}
.lead{color:var(--soft)}section{background:var(--card);border:1px solid var(--line);
border-radius:14px;padding:1.1rem 1.2rem;margin:1rem 0}
.eyebrow{letter-spacing:.08em;text-transform:uppercase;font-size:.75rem;color:var(--soft)}
.cards{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.cards div{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:.7rem .9rem}.cards b{display:block;font-size:1.6rem;line-height:1.2}
.cards span{color:var(--soft);font-size:.85rem}
.fact{border-left:4px solid var(--hot);padding:.1rem 0 .1rem .9rem;margin:1rem 0;
overflow-wrap:anywhere}.q{font-weight:600}.tokens{margin:.45rem 0;line-height:2}
.tokens i{font-style:normal;font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.85rem;
padding:.1rem .22rem;border-radius:5px;background:var(--line);margin-right:2px;white-space:pre}
.tokens i.a{background:var(--hotsoft);color:var(--hot)}.then{color:var(--keep)}
.keep li{padding:.25rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
.keep{list-style:none;margin:0;padding:0}.keep li:last-child{border:0}.keep em{color:var(--keep);
font-style:normal}.bars{display:grid;grid-template-columns:auto 1fr auto;gap:.35rem .7rem;
align-items:center;font-variant-numeric:tabular-nums}.bars .track{background:var(--line);
border-radius:6px;height:.85rem;overflow:hidden}.bars .track s{display:block;height:100%;
background:var(--bar);border-radius:6px}.bars .on{font-weight:600}
.bars .row{display:contents}@media(max-width:34rem){.bars .row{display:grid;grid-column:1/-1;
grid-template-columns:minmax(max-content,1fr) auto;gap:.1rem .7rem}
.bars .row .track{grid-column:1/-1;order:1}}
.chip{display:inline-block;border-radius:99px;padding:.05rem .55rem;font-size:.78rem;
background:var(--keepsoft);color:var(--keep)}.chip.no{background:var(--line);color:var(--soft)}
table{border-collapse:collapse;width:100%}td{padding:.35rem 0;border-bottom:1px solid var(--line);
vertical-align:top}td:not(:first-child){text-align:right;font-variant-numeric:tabular-nums;
padding-left:1rem}tr:last-child td{border:0}.bars+table{margin-top:1rem}details summary{
cursor:pointer;color:var(--soft)}footer{color:var(--soft);font-size:.85rem;margin-top:1.5rem}
</style></head><body><main>
<div class="eyebrow">$eyebrow</div>
<h1>$title</h1><p class="lead">$lead</p>$body
<footer>$footer</footer>
</main></body></html>
""")


def document(title: str, eyebrow: str, lead: str, html: str, footer: str) -> str:
    """The whole page; ``html`` is its sections."""
    parts = {"title": title, "eyebrow": eyebrow, "lead": lead, "footer": footer}
    return _PAGE.substitute({name: escape(text) for name, text in parts.items()}, body=html)


def section(title: str, lead: str, html: str) -> str:
    """A box with a heading and a sentence above ``html``."""
    return f"<section><h2>{escape(title)}</h2><p class='lead'>{escape(lead)}</p>{html}</section>"


def cards(numbers: Iterable[tuple[object, str]]) -> str:
    """Large numbers, each with what it counts."""
    shown = "".join(
        f"<div><b>{escape(str(n))}</b><span>{escape(t)}</span></div>" for n, t in numbers
    )
    return f'<div class="cards">{shown}</div>'


def bars(rows: Iterable[tuple[str, float, str]], *, most: float | None = None) -> str:
    """A bar a row: name, length, and what stands at its end; ``most`` is the full length."""
    listed = list(rows)
    full = most or max((value for _, value, _ in listed), default=0.0) or 1.0
    drawn = "".join(
        f'<div class="row"><span>{escape(name)}</span><span class="track">'
        f'<s style="width:{100 * min(max(value / full, 0.0), 1.0):.0f}%"></s></span>'
        f"<span>{escape(told)}</span></div>"
        for name, value, told in listed
    )
    return f'<div class="bars">{drawn}</div>'


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a heading for each column."""
    top = "".join(f"<td><b>{escape(name)}</b></td>" for name in names)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"
