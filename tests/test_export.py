"""The exported function, in processes that do not know the project."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.test_recommend import (  # noqa: F401
    MAX_HISTORY,
    NUM_ITEMS,
    USERS,
    folder,
    ragged,
    recommender,
)
from tiger_jax import artifacts
from tiger_jax import export as export_module
from tiger_jax.artifacts import InputError
from tiger_jax.vocabulary import fnv1a

RELOAD = """
import sys
import jax.export
import numpy as np

data = np.load("requests.npz")
serve = jax.export.deserialize(open("recommend.stablehlo", "rb").read())
assert serve.platforms == ("cpu", "cuda", "tpu")
items, scores = serve.call(data["user_tokens"], data["histories"])
np.savez("answers.npz", items=items, scores=scores)
assert not any(name.split(".")[0] in ("tiger_jax", "flax") for name in sys.modules)
"""

RELOAD_SAVEDMODEL = """
import sys
import numpy as np
import tensorflow as tf

data = np.load("requests.npz")
serve = tf.saved_model.load("savedmodel").signatures["serving_default"]
found = serve(**{name: tf.constant(data[name]) for name in ("user_tokens", "histories")})
np.savez("answers.npz", items=found["item_numbers"].numpy(), scores=found["scores"].numpy())
assert not any(name.split(".")[0] in ("tiger_jax", "flax") for name in sys.modules)
"""


def requests(facts):
    """A user token and a history in item numbers for each user; the last has neither."""
    histories = np.zeros((len(USERS), MAX_HISTORY), np.int32)
    for row, history in enumerate(ragged()):
        latest = history[-MAX_HISTORY:]
        histories[row, : len(latest)] = latest
    histories[-1] = 0
    hashes = np.array([fnv1a(user) for user in USERS])
    tokens = (facts["first_user_token"] + hashes % facts["num_user_tokens"]).astype(np.int32)
    tokens[-1] = 0
    return {"user_tokens": tokens, "histories": histories}


@pytest.mark.parametrize("exclude_history", [True, False])
def test_exported_function_answers_as_the_recommender(folder, tmp_path, exclude_history):  # noqa: F811
    check_round_trip(folder, tmp_path / "out", exclude_history, RELOAD)


def test_saved_model_answers_as_the_recommender(folder, tmp_path):  # noqa: F811
    pytest.importorskip("tensorflow", reason="a SavedModel wants tensorflow")
    check_round_trip(folder, tmp_path / "out", True, RELOAD_SAVEDMODEL, "--savedmodel")


def check_round_trip(folder, output, exclude_history, script, *arguments):  # noqa: F811
    export_module.main(
        [
            "export",
            f"--folder={folder}",
            "--run=tiger",
            f"--output={output}",
            f"--batch_size={len(USERS)}",
            "--num_results=6",
            "--num_beams=8",
            f"--exclude_history={exclude_history}",
            *arguments,
        ]
    )
    facts = json.loads((output / "export.json").read_text())
    assert facts["num_items"] == NUM_ITEMS
    item_ids = json.loads((output / "item_ids.json").read_text())
    assert item_ids[1:] == [f"B{item}" for item in range(1, NUM_ITEMS + 1)]
    data = requests(facts)
    np.savez(output / "requests.npz", **data)
    subprocess.run([sys.executable, "-c", script], cwd=output, check=True)
    found = np.load(output / "answers.npz")

    histories = [row[row > 0] for row in data["histories"]]
    ours = recommender(num_beams=8)
    with_users = ours.recommend(USERS[:-1], histories[:-1], 6, exclude_history)
    nobody = ours.recommend(None, histories[-1:], 6, exclude_history)
    np.testing.assert_array_equal(
        found["items"], np.concatenate([with_users.item_numbers, nobody.item_numbers])
    )
    np.testing.assert_allclose(
        found["scores"], np.concatenate([with_users.scores, nobody.scores]), atol=1e-5
    )


def test_without_tensorflow_a_savedmodel_is_refused_before_anything_is_written(
    folder,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match="a SavedModel wants tensorflow"):
        export_module.export(str(folder), "tiger", str(tmp_path / "out"), savedmodel=True)
    assert not (tmp_path / "out").exists()


def test_an_export_cut_short_leaves_the_files_of_the_one_before(folder, tmp_path, monkeypatch):  # noqa: F811
    output = tmp_path / "out"
    arguments = {"num_results": 2, "num_beams": 4, "batch_size": 2}
    export_module.export(str(folder), "tiger", str(output), **arguments)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    save_json = artifacts.save_json

    def killed(path, value):
        if path.name == "export.json":
            raise KeyboardInterrupt
        save_json(path, value)

    monkeypatch.setattr(artifacts, "save_json", killed)
    with pytest.raises(KeyboardInterrupt):
        export_module.export(str(folder), "tiger", str(output), **arguments | {"num_beams": 6})
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
