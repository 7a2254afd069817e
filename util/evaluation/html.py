"""The parts of a self-contained HTML page: frame, tables, figures, images.

No script, no request: everything is in the file. All texts are escaped here, so that
what comes from data is shown and never read as HTML; only `Html` passes as it is.
"""

import base64
import html
import io
from typing import Any, NamedTuple, Sequence, Union

import numpy as np
from PIL import Image

CSS = """
:root { color-scheme: light dark; --ink: #1c2026; --faint: #5c636e; --line: #d5d9df;
  --paper: #fff; --shade: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --faint: #a2aab6; --line: #3a414c; --paper: #14171c;
    --shade: #1d2229; }
  img.plot { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem; padding-top: 0.6rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 0.4rem; }
h4 { font-size: 1.05rem; font-weight: 500; margin: 0; }
p { margin: 0.4rem 0; }
.faint, figcaption, caption { color: var(--faint); font-size: 0.88rem; }
.wide { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid
  var(--line); overflow-wrap: normal; }
th { font-weight: 600; }
thead th { vertical-align: bottom; background: var(--shade); }
tbody th { font-weight: 400; min-width: 8rem; }
th:first-child { text-align: left; }
thead tr + tr th { text-align: right; }
thead th[scope=colgroup] { text-align: center; }
.pair { display: flex; flex-wrap: wrap; gap: 0.5rem 1.5rem; align-items: flex-start; }
.pair > * { min-width: 0; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; }
img.plot { width: 29rem; }
article { margin: 0.8rem 0; padding: 0.7rem 0.8rem; background: var(--shade);
  border: 1px solid var(--line); border-radius: 8px; break-inside: avoid; }
.panels { display: grid; gap: 0.6rem; margin-top: 0.5rem;
  grid-template-columns: repeat(2, 1fr); }
@media (min-width: 45rem) { .panels { grid-template-columns: repeat(4, 1fr); } }
.panels img { border-radius: 4px; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px;
  margin-right: 0.3em; border: 1px solid var(--line); }
.kept { white-space: nowrap; }
.word { padding: 0 0.2em; border-bottom: 3px none rgb(var(--colour));
  background: rgba(var(--colour), var(--strength)); border-radius: 3px 3px 0 0; }
.entity { border-bottom-style: solid; }
.attribute { border-bottom-style: dashed; }
.relation { border-bottom-style: double; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  .word, .swatch, thead th { print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  .wide { overflow: visible; }
  table, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .panels { grid-template-columns: repeat(4, 1fr); }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
QUALITY = 82  # of JPEG


class Html(str):
    """A text that is HTML already."""


Text = Union[str, Html]


class Column(NamedTuple):
    """A column of a table, or several under one heading.

    Attributes:
      name: the heading.
      parts: headings of its columns; none: it is one column.
    """

    name: str
    parts: Sequence[str] = ()


def text(content: Any) -> Html:
    """Escape a text, unless it is HTML already."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(str(content), quote=True))


def join(parts: Sequence[Text], between: str = "\n") -> Html:
    """Put parts one after the other."""
    return Html(between.join(map(text, parts)))


def element(name: str, *content: Text, **attributes: Any) -> Html:
    """Write an element with its end.

    Args:
      name: for instance "p".
      *content: what is in it.
      **attributes: `class_` is class; those that are None are left out.
    """
    opening = name
    for key, value in attributes.items():
        if value is not None:
            opening += f' {key.rstrip("_")}="{text(value)}"'
    return Html(f"<{opening}>{join(content, '')}</{name}>")


def page(title: str, *content: Text) -> str:
    """Return a whole HTML file."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="RefSeg">
<title>{text(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{element("h1", title)}
{join(content)}
</main>
</body>
</html>
"""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence]) -> Html:
    """Write a table; it scrolls sideways where the screen is too narrow.

    Args:
      caption: what it shows.
      columns: the first one names the rows.
      rows: the cells of each row, as many as there are columns and parts.
    """
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", *_heads(columns)),
        element("tbody", join(body)),
    )
    attributes = {"class_": "wide", "tabindex": "0", "role": "group"}
    return element("div", whole, **attributes, **{"aria-label": caption})


def _heads(columns):
    """Return the one or two rows of headings."""
    has_parts = any(column.parts for column in columns)
    first = [
        element("th", column.name, scope="colgroup", colspan=len(column.parts))
        if column.parts
        else element("th", column.name, scope="col", rowspan=2 if has_parts else None)
        for column in columns
    ]
    parts = [part for column in columns for part in column.parts]
    second = [element("th", part, scope="col") for part in parts]
    return [element("tr", *row) for row in (first, second) if row]


def plot(svg: str, alt: str) -> Html:
    """Show a plot; `alt` says in words what it shows."""
    source = _data_uri("image/svg+xml", svg.encode("utf-8"))
    return Html(f'<img class="plot" src="{source}" alt="{text(alt)}">')


def photo(image: np.ndarray, alt: str, caption: Text) -> Html:
    """Show an image, uint8 [H, W, 3] RGB, with its caption."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    source = _data_uri("image/jpeg", file.getvalue())
    height, width = image.shape[:2]
    shown = Html(
        f'<img src="{source}" alt="{text(alt)}" width="{width}" height="{height}">'
    )
    return element("figure", shown, element("figcaption", caption))


def swatch(colour: Sequence[int]) -> Html:
    """Show a colour, RGB 0..255, in a caption."""
    red, green, blue = colour
    style = f"background: rgb({red}, {green}, {blue})"
    return element("span", class_="swatch", style=style)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
