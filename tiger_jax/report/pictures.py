"""Pictures for the pages: SVG drawn by matplotlib, text kept as text, colours that suit any page.

Drawn as wide as a telephone, so that nothing must be enlarged there. Equal data give equal bytes.
"""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tiger_jax.report.page import printable

# Okabe and Ito's palette, told apart with any colour vision, without its black; grey for the rest.
COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#999999",
)  # fmt: skip
_LINE_STYLES = ("-", "--", ":", "-.")
# Stand-ins for colours of the page, which are other ones in the dark.
_INK, _GRID = "#010203", "#040506"
_WIDTH = 4.6  # inches of 72 points; the text has 10 points
_STYLE = {
    "svg.hashsalt": "tiger_jax",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "axes.formatter.useoffset": False,
}


def lines(
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    alt: str,
    log: bool = False,
    from_zero: bool = False,
) -> ElementTree.Element:
    """Curves over one horizontal axis.

    Args:
      series: {name: (x, y)}; values that are None leave gaps.
      x_label: of the horizontal axis, with its unit.
      y_label: of the vertical axis, with its unit.
      alt: what the picture shows, for those who do not see it.
      log: whether both axes are logarithmic.
      from_zero: whether the vertical axis begins at 0.
    """

    def draw(axes):
        for place, (name, (x, y)) in enumerate(series.items()):
            axes.plot(
                np.asarray(x, float),
                np.asarray(y, float),
                color=COLORS[place % len(COLORS)],
                linestyle=_LINE_STYLES[place // len(COLORS) % len(_LINE_STYLES)],
                marker="o" if len(x) <= 20 and not log else None,
                markersize=3.5,
                linewidth=1.8,
                label=_in_legend(name),
            )
        if log:
            axes.loglog()
        elif from_zero:
            axes.set_ylim(0, 1.05 * axes.dataLim.y1 or None)
        axes.set(xlabel=x_label, ylabel=y_label)
        if not log:
            _whole_ticks(axes.xaxis, [value for x, _ in series.values() for value in x])

    return _drawn(draw, alt, legend=len(series) > 1)


def columns(
    labels: Sequence[int], heights: Sequence[float], x_label: str, y_label: str, alt: str
) -> ElementTree.Element:
    """One column a number, without gaps: a histogram of whole numbers.

    Args:
      labels: the whole numbers, ascending.
      heights: of their columns.
      x_label: of the horizontal axis.
      y_label: of the vertical axis.
      alt: see `lines`.
    """

    def draw(axes):
        edges = np.append(np.asarray(labels, float), labels[-1] + 1) - 0.5
        axes.stairs(heights, edges, fill=True, color=COLORS[0])
        axes.set(xlabel=x_label, ylabel=y_label)
        _whole_ticks(axes.xaxis, labels)
        _whole_ticks(axes.yaxis, heights)
        axes.grid(axis="x", visible=False)

    return _drawn(draw, alt)


def stacked_columns(
    parts: dict[str, Sequence[float]], x_label: str, y_label: str, alt: str
) -> ElementTree.Element:
    """Columns side by side, as many as there may be, each made of the same parts.

    Args:
      parts: {name: height in each column}, the lowest first.
      x_label: of the horizontal axis.
      y_label: of the vertical axis.
      alt: see `lines`.
    """

    def draw(axes):
        edges = np.arange(len(next(iter(parts.values()))) + 1)
        base = np.zeros(len(edges) - 1)
        for place, (name, heights) in enumerate(parts.items()):
            top = base + np.asarray(heights, float)
            axes.stairs(
                top, edges, baseline=base, fill=True, color=COLORS[place], label=_in_legend(name)
            )
            base = top
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, edges[-1]))
        _whole_ticks(axes.yaxis, base)
        axes.set_xticks([])
        axes.grid(axis="x", visible=False)

    return _drawn(draw, alt, legend=True)


def stacked_bars(
    labels: Sequence[str], parts: dict[str, Sequence[float]], x_label: str, alt: str
) -> ElementTree.Element:
    """Bars below each other, each with its name and made of the same parts.

    Args:
      labels: names of the bars, the uppermost first.
      parts: {name: length in each bar}, the leftmost first.
      x_label: of the horizontal axis.
      alt: see `lines`.
    """

    def draw(axes):
        base = np.zeros(len(labels))
        for place, (name, lengths) in enumerate(parts.items()):
            lengths = np.asarray(lengths, float)
            axes.barh(
                np.arange(len(labels)), lengths, 0.75, base, color=COLORS[place],
                label=_in_legend(name),
            )  # fmt: skip
            base = base + lengths
        axes.set_yticks(range(len(labels)), [printable(label, 28) for label in labels])
        axes.invert_yaxis()
        axes.set(xlabel=x_label)
        axes.grid(axis="y", visible=False)

    return _drawn(draw, alt, height=1.2 + 0.26 * len(labels), legend=len(parts) > 1)


def _in_legend(name: str) -> str:
    """A name as a legend shows it; matplotlib leaves out what begins with an underscore."""
    text = printable(name, 40)
    return f" {text}" if text.startswith("_") else text


def _drawn(
    draw: Callable[[Any], None], alt: str, height: float = 2.9, legend: bool = False
) -> ElementTree.Element:
    """An svg element with what `draw` puts on the axes it is given."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Signs that matplotlib's font lacks are drawn by the browser's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure((_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        _plain_numbers(axes)
        if legend:
            names = axes.get_legend_handles_labels()[1]
            ncols = max(1, min(4, 44 // (max(map(len, names)) + 6)))
            figure.set_figheight(height + 0.2 * math.ceil(len(names) / ncols))
            figure.legend(loc="outside upper left", ncols=ncols)
        FigureCanvasSVG(figure).print_svg(
            stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _as_part_of_a_page(stream.getvalue(), alt)


def _plain_numbers(axes) -> None:
    """1,000 in place of 10^3, which small screens blur; names of bars stay."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        if not isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _whole_ticks(axis, values: Sequence[float]) -> None:
    """No fractions along an axis of whole numbers."""
    if np.all(np.mod(values, 1) == 0) and not np.all(np.isin(values, (0, 1))):
        axis.get_major_locator().set_params(integer=True)


def _as_part_of_a_page(svg: str, alt: str) -> ElementTree.Element:
    """matplotlib's file as an element of HTML: no name spaces, no size, colours of the page."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            value = element.attrib.pop(name)
            value = value.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
            element.set(name.rpartition("}")[2], value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", printable(alt, 1000))
    return root
