"""A page of HTML in one file: headings, facts, tables, lists, pictures. No script, no outside link.

Built as a tree of elements, so that every tag is closed and every text escaped whatever it holds.
What the pages say is written in the modules beside this one.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

from tiger_jax import artifacts

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #5b6470;
  --line: #d9dee4; --shade: #f4f6f8; --mark: #fff1c9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ed; --soft: #a0a9b4;
  --line: #343a43; --shade: #1d2127; --mark: #463a12; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
dl div { background: var(--shade); border-radius: .5rem; padding: .55rem .75rem; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: normal; }
thead th { vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
td:first-child:not(.number) { min-width: 5rem; }
tr.marked { background: var(--mark); font-weight: 600; }
.pictures { display: grid; gap: 1rem 2rem; align-items: end; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; max-width: 31rem; }
/* A tick label at the edge may be wider in the font of the page. */
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
details details { border: 0; padding: .15rem 0 .15rem 1rem; }
summary { cursor: pointer; }
ol, ul { margin: .3rem 0; padding-left: 1.6rem; font-size: .9rem; }
"""

# Controls that no page may hold, and halves of characters, which have no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


def printable(text: object, longest: int = 160) -> str:
    """`text` on one line without control characters, cut to `longest` characters."""
    line = _UNPRINTABLE.sub(" ", str(text)[: 4 * longest]).strip()
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def short_name(encoder: str) -> str:
    """The name of an encoder, or the end of the path where it lies."""
    folders = encoder.rstrip("/").split("/")
    return encoder if len(folders) <= 2 else "…/" + "/".join(folders[-2:])


class Page:
    """A page, written from top to bottom; `save` puts it on disk.

    Texts are cut and cleaned by `printable`; numbers come as texts.
    """

    def __init__(self, title: str, subtitle: str = ""):
        self._root = ElementTree.Element("html", lang="en")
        head = _add(self._root, "head")
        _add(head, "meta", charset="utf-8")
        _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
        _add(head, "title").text = printable(title)
        _add(head, "style").text = _STYLE
        self._place = _add(_add(self._root, "body"), "main")
        _add(self._place, "h1").text = printable(title)
        if subtitle:
            self.text(subtitle, soft=True)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; level 1 is the page's title."""
        _add(self._place, f"h{level}").text = printable(text)

    def text(self, text: str, soft: bool = False) -> None:
        """A paragraph; `soft` for what is only said beside."""
        _add(self._place, "p", **({"class": "soft"} if soft else {})).text = printable(text, 2000)

    def facts(self, facts: dict[str, str]) -> None:
        """The numbers to see first: {name: value}, each a tile."""
        tiles = _add(self._place, "dl")
        for name, value in facts.items():
            tile = _add(tiles, "div")
            _add(tile, "dt").text = printable(name)
            _add(tile, "dd").text = printable(value)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        caption: str = "",
        marked: Sequence[int] = (),
    ) -> None:
        """A table that scrolls within its own box where the screen is narrow.

        Args:
          columns: their names; a column whose cells all begin like numbers is set to the right.
          rows: a cell a column.
          caption: what the table shows.
          marked: rows that stand out, by their place from 0 on.
        """
        rows = [[printable(cell, 300) for cell in row] for row in rows]
        is_number = [
            all(re.match(r"[-+]?\.?\d|[–-]?$", row[place]) for row in rows) and bool(rows)
            for place in range(len(columns))
        ]
        kinds = [{"class": "number"} if number else {} for number in is_number]
        if caption:
            self.text(caption, soft=True)
        box = _add(
            self._place, "div", role="region", tabindex="0", **{"class": "scroll"},
            **{"aria-label": printable(caption or ", ".join(filter(None, columns)))},
        )  # fmt: skip
        table = _add(box, "table")
        head = _add(_add(table, "thead"), "tr")
        for name, kind in zip(columns, kinds, strict=True):
            _add(head, "th", scope="col", **kind).text = printable(name)
        body = _add(table, "tbody")
        for place, row in enumerate(rows):
            line = _add(body, "tr", **({"class": "marked"} if place in marked else {}))
            for cell, kind in zip(row, kinds, strict=True):
                _add(line, "td", **kind).text = cell

    def list(self, entries: Iterable[str], ordered: bool = False) -> None:
        """A list of texts."""
        place = _add(self._place, "ol" if ordered else "ul")
        for entry in entries:
            _add(place, "li").text = printable(entry, 300)

    def pictures(self, *pictures: tuple[ElementTree.Element, str]) -> None:
        """Pictures (made in `pictures`) with their captions, side by side where there is room."""
        grid = _add(self._place, "div", **{"class": "pictures"})
        for picture, caption in pictures:
            _make_ids_unique(picture, f"p{len(self._root.findall('.//svg'))}-")
            figure = _add(grid, "figure")
            figure.append(picture)
            _add(figure, "figcaption").text = printable(caption, 400)

    @contextlib.contextmanager
    def details(self, summary: str, opened: bool = False) -> Iterator[None]:
        """What is added within is folded away behind `summary`, unless `opened`."""
        outer = self._place
        self._place = _add(outer, "details", **({"open": ""} if opened else {}))
        _add(self._place, "summary").text = printable(summary)
        yield
        self._place = outer

    def save(self, path: str | os.PathLike) -> None:
        """Writes the page; equal content gives equal bytes."""
        ElementTree.indent(self._root, space="")
        text = ElementTree.tostring(self._root, encoding="unicode", method="html")
        with artifacts.atomic_path(path) as temporary:
            temporary.write_text("<!DOCTYPE html>\n" + text + "\n", encoding="utf-8")


def _add(place: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(place, tag, attributes)


def _make_ids_unique(picture: ElementTree.Element, prefix: str) -> None:
    """An id must be the only one of its name on the page; references follow."""
    for element in picture.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif value.startswith(("#", "url(#")):
                element.set(name, value.replace("#", "#" + prefix))
