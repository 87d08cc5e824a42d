"""Pictures for the page of results."""

import matplotlib.image
import pytest

from launch import plots


@pytest.mark.parametrize("num_curves", [1, 3, 6])
@pytest.mark.parametrize("num_panels", [1, 2])
@pytest.mark.parametrize("log", [False, True])
def test_nothing_of_a_picture_of_curves_is_cut_off_at_its_edges(
    tmp_path, num_curves, num_panels, log
):
    """A legend too wide for the panels would leave dark points in the outermost columns."""
    names = [f"curve of dataset {number}, cpu" for number in range(num_curves)]
    curves = {name: ([1, 2, 3], [place, 2, 300]) for place, name in enumerate(names)}
    panels = {f"panel {number}": curves for number in range(num_panels)}
    ranges = {2.0: (1.0, 3.0)}
    plots.lines(tmp_path / "lines.png", panels, "first K results", "% of them", ranges, log)
    picture = matplotlib.image.imread(tmp_path / "lines.png")
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert edge.min() == 1.0
