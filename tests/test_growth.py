"""What a step costs as sizes grow: the operations follow from the shapes."""

import json

import jax
import numpy as np
import pytest

from benchmarks import growth
from tiger_jax.artifacts import InputError

TINY = {"width": 16, "layers": 1, "history": 2, "catalogue": 50}


def flops(**sizes):
    step, state, data = growth.training_step(TINY | sizes, 4, "float32", 0)
    return jax.jit(step).lower(state, data).cost_analysis()["flops"]


def test_operations_are_those_of_the_shapes():
    """Every layer costs the same; items come from a table; attention is quadratic."""
    one, two, three = (flops(layers=layers) for layers in (1, 2, 3))
    assert three - two == pytest.approx(two - one, rel=1e-3)
    # Multiplications of an encoder's and a decoder's layer on 4 x 9 and 4 x 4 tokens: one head of
    # 64 reads and writes 16, the MLP is 128 wide; each costs two operations, and twice backward.
    attention, mlp = 16 * 64, 2 * 16 * 128
    encoder = 36 * (4 * attention + mlp) + 2 * 4 * 9 * 9 * 64
    decoder = 16 * (6 * attention + mlp) + 36 * 2 * attention + 2 * 4 * (4 * 4 + 4 * 9) * 64
    products = 2 * 3 * (encoder + decoder)
    assert products < two - one < 1.3 * products
    assert flops(catalogue=500) == one
    by_length = [flops(history=history) for history in (2, 4, 6, 8)]
    curvatures = np.diff(by_length, 2)
    assert 0 < curvatures[0] == pytest.approx(curvatures[1], rel=1e-3)


def test_points_are_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "BASE", TINY)
    monkeypatch.setattr(growth, "AXES", {"catalogue": (50, 500), "history": (2,)})
    output, picture = tmp_path / "growth.json", tmp_path / "growth.svg"
    result = growth.benchmark("catalogue,history", 4, 1, "float32", 0, str(output), str(picture))
    assert result["by_axis"] == {
        name: {int(size): cost for size, cost in by_size.items()}
        for name, by_size in json.loads(output.read_text())["by_axis"].items()
    }
    catalogue = result["by_axis"]["catalogue"]
    assert catalogue[50]["flops"] == catalogue[500]["flops"]
    # The paper's sizes of this axis and of the other are one point.
    assert result["by_axis"]["history"][2] == catalogue[50]
    assert "catalogue" in picture.read_text()
    assert len(growth.table_of(result)) == 5


def test_an_unknown_axis_is_refused():
    with pytest.raises(InputError, match="choose among width, layers, history, catalogue"):
        growth.benchmark("depth")
