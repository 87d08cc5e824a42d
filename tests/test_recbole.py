"""RecBole's models: atomic files out, ranked lists in; the lists recorded for the toy are sound."""

import ast
import collections
import contextlib
import functools
import pathlib
import sys

import numpy as np
import pytest

from benchmarks.baselines import ranked_lists
from launch.experiments import recbole
from launch.experiments.budgets import BUDGETS
from launch.experiments.setting import Setting
from tiger_jax import artifacts, prepare
from tiger_jax.artifacts import InputError

# Stands for RecBole's interpreter: the same items for all users, last the target of the test.
_FAKE = """#!{python}
import functools
import json, sys
import numpy as np
options = dict(argument[2:].split("=") for argument in sys.argv[2:])
rows = [line.split() for line in open(options["atomic"] + "/prepared.inter")][1:]
last = {{int(user): int(item) for user, item, place in rows}}
users = sorted(last)[: {num_users}]
items = [[1, 2, 3, last[user]] for user in users]
facts = {{"best_epoch": int(options["epochs"]), "model_name": options["model"]}}
np.savez(
    open(options["out"], "wb"),
    facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
    user_rows=np.array(users),
    item_numbers=np.array(items, np.int32),
    scores=np.tile(np.arange(4, 0, -1, dtype=np.float32), (len(users), 1)),
)
sys.exit({code})
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """The toy that stands for Beauty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("recbole"))
        patch.setattr(prepare.report, "write", lambda *arguments: None)
        setting = Setting("beauty", BUDGETS["toy"], (0,))
        assert setting.folder.is_dir()
        yield setting


def interpreter(tmp_path, num_users="None", code=0):
    path = tmp_path / "python"
    path.write_text(_FAKE.format(python=sys.executable, num_users=num_users, code=code))
    path.chmod(0o755)
    return str(path)


def test_atomic_files_hold_every_interaction_in_order_and_split_alike(setting, tmp_path):
    ranked_lists.write_atomic_files(setting.folder, tmp_path)
    header, *lines = (tmp_path / "prepared" / "prepared.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    by_user = collections.defaultdict(list)
    for line in lines:
        user, item, timestamp = line.split("\t")
        by_user[int(user)].append((float(timestamp), int(item)))
    sequences = setting.sequences
    assert len(by_user) == sequences.num_users
    for split, left_out in (("test", 1), ("validation", 2)):
        histories, targets = sequences.split(split)
        for row in range(sequences.num_users):
            items = [item for _, item in sorted(by_user[row])]
            assert items[:-left_out] == histories[row].tolist()
            assert items[-left_out] == targets[row]
    _, *items = (tmp_path / "prepared" / "prepared.item").read_text().splitlines()
    assert [int(line.split("\t")[0]) for line in items] == list(range(1, sequences.num_items + 1))
    assert all(len(line.split("\t")[1].split()) >= 1 for line in items)


def test_attributes_are_words_each_once():
    item = {"categories": [["Home", "Hair Care"], ["Home", "Oils"]], "brand": "Dr  Who"}
    assert ranked_lists.attributes(item) == ["Home", "Hair_Care", "Oils", "brand_Dr_Who"]
    assert ranked_lists.attributes({"categories": None, "brand": None}) == ["none"]


def test_lists_of_the_other_interpreter_are_kept_and_scored_without_the_history(setting, tmp_path):
    options = {"epochs": 7, "pretrain_epochs": 1}
    path = ranked_lists.make_lists(setting.folder, "HGN", 0, interpreter(tmp_path), **options)
    header, ranked = ranked_lists.load_lists(path, setting.sequences)
    assert (header["best_epoch"], header["model"], header["seed"]) == (7, "HGN", 0)
    histories, targets = setting.sequences.split("test")
    assert ranked.item_numbers[:, -1].tolist() == targets.tolist()
    row = recbole.rows(setting)["HGN"]
    # The target follows what of 1, 2, 3 is not in the history, unless it is one of them.
    gains = [
        1 / np.log2([item for item in [1, 2, 3, target] if item not in history].index(target) + 2)
        for history, target in zip(histories, targets, strict=True)
    ]
    assert row["scores"]["ndcg@5"]["value"] == pytest.approx(np.mean(gains))
    assert row["scores"]["recall@5"]["value"] == row["with_history_items"]["recall@5"]["value"] == 1
    # A model that has its lists is not trained again, nor taken for one of other options.
    make_lists = functools.partial(ranked_lists.make_lists, setting.folder, "HGN", 0, "nowhere")
    assert make_lists(**options) == path
    with pytest.raises(InputError, match=r"trained with .*7.*; remove it to train with .*8"):
        make_lists(epochs=8, pretrain_epochs=1)
    path.unlink()


def test_epochs_of_pretraining_tell_lists_apart_only_where_there_is_pretraining(setting, tmp_path):
    for model, refused in (("HGN", False), ("S3Rec", True)):
        make_lists = functools.partial(
            ranked_lists.make_lists, setting.folder, model, 0, interpreter(tmp_path), epochs=7
        )
        path = make_lists(pretrain_epochs=1, threads=1)
        assert make_lists(pretrain_epochs=1, threads=2) == path
        with pytest.raises(InputError) if refused else contextlib.nullcontext():
            assert make_lists(pretrain_epochs=3, threads=1) == path
        path.unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"code": 3}, "HGN ended with exit code 3"), ({"num_users": 5}, "lists for other users")],
)
def test_an_interpreter_that_fails_leaves_no_lists(fault, message, setting, tmp_path):
    with pytest.raises(InputError, match=message):
        ranked_lists.make_lists(setting.folder, "HGN", 1, interpreter(tmp_path, **fault), epochs=1)
    assert not ranked_lists.lists_path(setting.folder, "HGN", 1).exists()


def test_lists_of_other_sequences_are_refused(setting):
    path = setting.folder / "lists.npz"
    artifacts.save_arrays(path, "ranked_items", {"sequences": "other", "model": "HGN"})
    with pytest.raises(InputError, match="made from other sequences"):
        ranked_lists.load_lists(path, setting.sequences)


def test_an_unknown_model_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        ranked_lists.main(["--folder=x", "--python=python", "--models=TIGER"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: --models=TIGER: choose from GRU4Rec, ")


def test_recorded_lists_of_all_seven_are_of_the_toy_and_hold_items_once(setting):
    rows = recbole.rows(setting)
    assert list(rows) == list(ranked_lists.MODELS)
    histories, targets = setting.sequences.split("test")
    for model, row in rows.items():
        _, ranked = ranked_lists.load_lists(recbole._path(setting, model, 0), setting.sequences)
        found = 0
        for items, history, target in zip(ranked.item_numbers, histories, targets, strict=True):
            assert len(set(items)) == len(items)
            assert 1 <= min(items) <= max(items) <= setting.sequences.num_items
            found += target in [item for item in items if item not in history][:10]
        assert row["scores"]["recall@10"]["value"] == pytest.approx(found / len(targets))


def test_the_script_for_the_other_environment_imports_nothing_of_ours():
    tree = ast.parse(pathlib.Path(ranked_lists.__file__).with_name("run_recbole.py").read_text())
    names = [
        *(
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        ),
        *(node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)),
    ]
    packages = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert packages == {"numpy", "torch", "recbole"}
