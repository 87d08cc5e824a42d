"""The verb `prepare`: files, counts, what it computes again, command line, cards."""

import errno
import gzip
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tiger_jax import artifacts, prepare
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences

ROOT = pathlib.Path(__file__).resolve().parent.parent


def synthetic(folder, **changes):
    arguments = {"synthetic_users": 200, "synthetic_items": 60, "min_interactions": 3, "width": 16}
    return prepare.prepare("synthetic", str(folder), **arguments | changes)


def test_prepared_folder_is_complete_and_belongs_together(tmp_path):
    result = synthetic(tmp_path)
    sequences = Sequences.load(tmp_path / "sequences.npz")
    items = content.load_items(tmp_path)
    embeddings, header = content.load_embeddings(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "content_embeddings.json",
        "content_embeddings.npy",
        "items.jsonl",
        "report.html",
        "sequences.npz",
    ]
    assert [row["item_id"] for row in items] == list(sequences.item_ids[1:])
    assert embeddings.shape == (sequences.num_items, 16)
    assert header["encoder"] == result["encoder"] == "tfidf"
    assert header["text_fields"] == ["title", "price", "brand", "categories"]
    assert sequences.header["source"] == "synthetic"
    assert sequences.header["num_users"] == result["users"] == sequences.num_users
    assert result["users"] + result["dropped"]["users"] == 200
    assert result["items_with"]["title"] == result["items"]
    assert result["items_with"]["keywords"] == 0
    json.dumps(result)


def test_row_of_an_embedding_is_that_of_its_item(tmp_path):
    """Equal sentences alone have equal embeddings: here, items of one shelf."""
    synthetic(tmp_path, text_fields="categories", width=768)
    embeddings, _ = content.load_embeddings(tmp_path)
    texts = [row["categories"] for row in content.load_items(tmp_path)]
    cosines = embeddings @ embeddings.T
    equal = np.array([[text == other for other in texts] for text in texts])
    assert equal.sum() > len(texts)
    np.testing.assert_allclose(cosines[equal], 1, atol=1e-5)
    assert cosines[~equal].max() < 0.999


def test_preparing_again_gives_the_same_bytes(tmp_path):
    synthetic(tmp_path / "a")
    synthetic(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_embeddings_are_computed_again_only_for_other_texts_or_encoders(tmp_path, monkeypatch):
    calls = []
    encode = content.encode
    monkeypatch.setattr(content, "encode", lambda *args: calls.append(1) or encode(*args))
    synthetic(tmp_path)
    synthetic(tmp_path)
    synthetic(tmp_path, ties="shuffle")
    assert len(calls) == 1
    synthetic(tmp_path, text_fields="title")
    synthetic(tmp_path, text_fields="title", width=8)
    synthetic(tmp_path, text_fields="title", width=8, synthetic_items=61)
    assert len(calls) == 4
    content.load_embeddings(tmp_path)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["save_items", "save_embeddings", "save", "replace"])
def test_a_run_cut_short_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch, step):
    """Interrupted before any of its writes, over a folder of other data."""
    owners = {"save": Sequences, "replace": pathlib.Path}
    synthetic(tmp_path)
    before = contents(tmp_path)

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owners.get(step, content), step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            synthetic(tmp_path, seed=1)
    if step != "replace":
        assert contents(tmp_path) == before
    synthetic(tmp_path, seed=1)
    synthetic(tmp_path / "fresh", seed=1)
    fresh = contents(tmp_path / "fresh")
    assert contents(tmp_path) == fresh
    assert fresh != before


@pytest.mark.parametrize("file", range(5))
def test_a_full_disk_is_one_line_and_leaves_the_old_folder_as_it_was(
    tmp_path, monkeypatch, capsys, file
):
    """The disk is full at the end of any of the files."""
    arguments = ["prepare", "--source=synthetic", f"--folder={tmp_path}", "--min_interactions=3"]
    arguments += ["--synthetic_users=200", "--synthetic_items=60", "--width=16"]
    prepare.main(arguments)
    before, calls, fsync = contents(tmp_path), [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) > file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        prepare.main([*arguments, "--seed=1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"seed": 2**32}, "seed is 4294967296; give less"),
        ({"width": 0}, "width is 0; give 1 or more"),
        ({"encoder": "tfdf"}, "encoder=tfdf: did you mean tfidf?"),
        ({"min_interactions": -1}, "min_interactions is -1; give 1 or more"),
        ({"min_item_interactions": 0}, "min_item_interactions is 0; give 1 or more"),
        ({"text_fields": "titel"}, "no clause for titel"),
        ({"template": "{titel}"}, "must hold one of"),
        ({"ties": "random"}, "choose file or shuffle"),
        ({"synthetic_items": 3}, "36 items"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, changes, message):
    with pytest.raises(artifacts.InputError, match=message) as caught:
        synthetic(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_folder_has_a_name():
    with pytest.raises(artifacts.InputError, match="give the prepared folder to write"):
        prepare.prepare("synthetic", "")


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "tiger_jax.prepare", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_command_line_prints_table_6_and_ends_with_json(tmp_path):
    folder = tmp_path / "sports"
    folder.mkdir()
    with gzip.open(folder / "sequences.txt.gz", "wt") as file:
        file.write("u a b c\nv c b a\nw a c b d\n")
    with gzip.open(folder / "items.jsonl.gz", "wt") as file:
        for item in "abcd":
            file.write(json.dumps({"asin": item, "title": f"the {item}{item}"}) + "\n")
    card = "--gin_file=gin/dataset/sports.gin"
    macros = [f"--gin.SOURCE='{folder}'", f"--gin.FOLDER='{tmp_path / 'out'}'"]
    done = command(card, *macros, "--min_interactions=3", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "sports: 3 users, 3 items, 9 interactions; length of a sequence: mean 3.0000, median 3"
    )
    assert lines[1] == "dropped: 0 users, 1 items, 1 interactions"
    result = json.loads(lines[-1])
    assert result["interactions"] == 9
    assert result["embedding_width"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sorce=x"], "sorce"),
        (["--source=absent", "--folder=x"], "absent: no such folder"),
        (["--gin_file=gin/dataset/beuty.gin"], "beuty.gin"),
    ],
)
def test_wrong_command_lines_give_one_line_and_exit_code_2(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("card", "source", "text_fields"),
    [
        ("beauty", "../shared/data/amazon2014/beauty", None),
        ("sports", "../shared/data/amazon2014/sports", None),
        ("toys", "../shared/data/amazon2014/toys", None),
        ("synthetic", "synthetic", None),
        # Keywords stand in for titles only in the card that says so.
        ("sports_keywords", "../shared/data/amazon2014/sports", "keywords,price,brand,categories"),
    ],
)
def test_cards_bind_what_they_say(card, source, text_fields):
    import gin

    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config_file(str(ROOT / "gin" / "dataset" / f"{card}.gin"))
        bound = gin.get_bindings(prepare.prepare)
        gin.clear_config()
    assert bound["source"] == source
    assert bound["folder"] == f"work/{card}"
    assert bound["encoder"] == "tfidf"
    assert bound.get("text_fields") == text_fields


def test_beauty_is_prepared_from_the_real_files(amazon_data, tmp_path):
    result = prepare.prepare(str(amazon_data / "beauty"), str(tmp_path), width=8)
    assert result["users"] == 22_363
    assert result["dropped"] == {"users": 0, "items": 0, "interactions": 0}
    assert result["items_with"] == {
        "title": 12_094,
        "price": 0,
        "brand": 9_983,
        "categories": 12_101,
        "keywords": 12_100,
    }
    embeddings, _ = content.load_embeddings(tmp_path)
    assert embeddings.shape == (12_101, 8)
    assert content.load_items(tmp_path)[0]["title"] == (
        "OPI Nail Lacquer, Simmer and Shimmer, 0.5-Fluid Ounce"
    )
