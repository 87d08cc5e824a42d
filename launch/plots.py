"""Pictures of the page of results: PNG files drawn by matplotlib, colours for any colour vision.

A picture has panels side by side, {title: what is in it}. What the paper says is black.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tiger_jax import artifacts
from tiger_jax.report.pictures import COLORS

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    # Over bars it stays readable.
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
}
_PANEL = (3.6, 3.0)  # inches
_DOTS_AN_INCH = 110
_MARKERS = "osD^vPX*"
# Where the names of categories are longer, they say nothing more.
_LONGEST_NAME = 30
# Points that have a tick each.
_FEW = 6

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(
    path: pathlib.Path,
    panels: Mapping[str, Curves],
    x_label: str,
    y_label: str,
    their_ranges: Mapping[float, tuple[float, float]] | None = None,
    log: bool = False,
) -> None:
    """Curves over one axis; a name has the same colour and marker in all panels.

    Args:
      path: file to write.
      panels: {title: {name: (x, y)}}.
      x_label: of the horizontal axes, with the unit.
      y_label: of the vertical axes, which are the same for all panels.
      their_ranges: {x: (low, high)} that the paper states, drawn in every panel.
      log: whether the vertical axes are logarithmic; a curve has no point then where it is 0.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))

    def draw(axes, title):
        for name, (x, y) in panels[title].items():
            place = names.index(name)
            color, marker = COLORS[place % len(COLORS)], _MARKERS[place % len(_MARKERS)]
            if log:
                y = [value or np.nan for value in y]
            axes.plot(x, y, color=color, marker=marker, markersize=3.5, label=name)
            if len(x) <= _FEW:
                axes.set_xticks(x)
        for place, (x, (low, high)) in enumerate((their_ranges or {}).items()):
            label = "range in the paper" if place == 0 else None
            middle = (low + high) / 2
            axes.errorbar(
                [x], [middle], (high - low) / 2, color="black", capsize=4, fmt="none", label=label
            )
        axes.set(xlabel=x_label, title=title)
        axes.grid(visible=True)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)

    _save(path, list(panels), draw, y_label, shared=True)


def bars(
    path: pathlib.Path,
    panels: Mapping[str, tuple[Sequence[str], Mapping[str, Sequence[float]]]],
    x_label: str,
) -> None:
    """Horizontal bars made of parts, the parts' colours explained in each panel.

    Args:
      path: file to write.
      panels: {title: (names of the bars, {part: its length in each bar})}; at most eight parts.
      x_label: of the horizontal axes.
    """

    def draw(axes, title):
        names, parts = panels[title]
        base = np.zeros(len(names))
        for place, (part, lengths) in enumerate(parts.items()):
            axes.barh(np.arange(len(names)), lengths, left=base, color=COLORS[place], label=part)
            base = base + np.asarray(lengths, float)
        axes.set_yticks(np.arange(len(names)), [name[:_LONGEST_NAME] for name in names])
        axes.invert_yaxis()
        # Room for a long legend.
        room = 1.05 if len(parts) <= 4 else 1.4
        axes.set(xlabel=x_label, title=title, xlim=(0, room * max(base, default=1)))
        axes.grid(axis="x")

    _save(path, list(panels), draw, "", shared=False, width=1.5)


def _save(path, titles, draw, y_label, shared, width=1.0) -> None:
    """Draws each title's panel; where `shared`, with one vertical axis and one legend for all."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # Two panels a line can be read where the page is narrow.
        columns = min(len(titles), 3 if width == 1 else 2)
        lines = -(-len(titles) // columns)
        size = (width * _PANEL[0] * columns, _PANEL[1] * lines)
        figure = Figure(size, dpi=_DOTS_AN_INCH, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharey=shared).flat
        entries = {}
        for axes, title in zip(grid, titles, strict=False):
            draw(axes, title)
            if not shared:
                axes.legend()
            handles, labels = axes.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        if shared:
            # Below all panels, where it hides no curve.
            figure.legend(entries.values(), entries, loc="outside lower center", ncols=2 * columns)
        for axes in list(grid)[len(titles) :]:
            axes.set_axis_off()
        if y_label:
            figure.supylabel(y_label, fontsize=9)
        with artifacts.atomic_path(path) as temporary:
            # Nothing in the file that tells when and by which version.
            FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
