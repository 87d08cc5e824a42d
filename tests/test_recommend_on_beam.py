"""Recommendations by the Beam pipeline are those of `recommend`. Needs the extra `beam`."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

# The fixture `folder`: a prepared folder with a run.
from tests.test_recommend import NUM_ITEMS, USERS, folder, ragged  # noqa: F401
from tiger_jax.recommender import Recommender

pytest.importorskip("apache_beam", reason="needs pip install -e .[beam]")

import pyarrow as pa
import pyarrow.parquet as pq

from launch import recommend_on_beam as on_beam

HISTORIES = [[f"B{item}" for item in history] for history in ragged()]
HISTORIES[3] = ["who?", *HISTORIES[3], "B0"]
ROWS = [
    {"user": None if number == 7 else user, "history": history}
    for number, (user, history) in enumerate(zip(USERS, HISTORIES, strict=True))
]


def save_rows(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(output):
    """All rows of the output in order."""
    return pq.read_table(output).sort_by("row").to_pylist()


def check_rows(found, rows, folder, num_results):  # noqa: F811
    """Each row of the output against one call of `recommend` for that user alone."""
    recommender = Recommender.load(folder, "tiger", num_beams=4, batch_size=4)
    assert [row["row"] for row in found] == list(range(len(rows)))
    for row, asked in zip(found, rows, strict=True):
        assert row["user"] == asked["user"]
        is_known = [raw_id in recommender.item_ids for raw_id in asked["history"]]
        items = [int(i[1:]) for i, known in zip(asked["history"], is_known, strict=True) if known]
        ranked = recommender.recommend([asked["user"]], [items], num_results)
        used = ranked.used[0]
        assert row["item_ids"] == [f"B{item}" for item in ranked.item_numbers[0, used]]
        np.testing.assert_allclose(row["scores"], ranked.scores[0, used], atol=1e-5)
        unknown = [i for i, known in zip(asked["history"], is_known, strict=True) if not known]
        assert row["unknown"] == unknown


def recommend(folder, output, **options):  # noqa: F811
    defaults = {"num_results": 4, "num_beams": 4, "batch_size": 4, "shard_users": 3}
    return on_beam.recommend_on_beam(str(folder), "tiger", str(output), **(defaults | options))


def test_each_row_is_what_recommend_answers(folder, tmp_path):  # noqa: F811
    """Of two files, one JSON lines, one Parquet, in shards that do not divide them."""
    (tmp_path / "users").mkdir()
    save_rows(tmp_path / "users" / "a.jsonl", ROWS[:5])
    save_rows(tmp_path / "users" / "b.parquet", ROWS[5:])
    result = recommend(folder, tmp_path / "out", histories=str(tmp_path / "users" / "*"))
    assert (result["num_users"], result["num_shards"]) == (11, 4)
    assert result["step"] == 10
    found = read_rows(tmp_path / "out")
    check_rows(found, ROWS, folder, 4)
    assert found[3]["unknown"] == ["who?", "B0"]
    # Nothing is left to do, and nothing is done.
    files = {path: path.stat() for path in (tmp_path / "out").glob("*.parquet")}
    again = recommend(folder, tmp_path / "out", histories=str(tmp_path / "users" / "*"))
    assert again["shards_done_before"] == 4
    assert {path: path.stat() for path in (tmp_path / "out").glob("*.parquet")} == files


def test_without_a_file_all_users_of_the_folder_are_answered(folder, tmp_path):  # noqa: F811
    recommend(folder, tmp_path / "out", num_results=NUM_ITEMS, num_beams=NUM_ITEMS)
    (row,) = read_rows(tmp_path / "out")
    assert row["user"] == "ann"
    assert set(row["item_ids"]) == {f"B{item}" for item in range(4, NUM_ITEMS + 1)}


def test_what_was_killed_goes_on_and_does_nothing_twice(folder, tmp_path):  # noqa: F811
    rows = [ROWS[number % len(ROWS)] for number in range(300)]
    histories = str(save_rows(tmp_path / "users.jsonl", rows))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "launch.recommend_on_beam", f"--folder={folder}"]
    command += ["--run=tiger", f"--output={output}", f"--histories={histories}"]
    command += ["--num_results=4", "--num_beams=4", "--batch_size=4", "--shard_users=1"]
    root = pathlib.Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}) as process:
        while process.poll() is None and len(list(output.glob("*.parquet"))) < 5:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    done = {path: (path.stat().st_ino, path.read_bytes()) for path in output.glob("*.parquet")}
    assert 5 <= len(done) < len(rows)

    result = recommend(folder, output, histories=histories, shard_users=1)
    assert result["shards_done_before"] == len(done)
    for path, (inode, data) in done.items():
        assert (path.stat().st_ino, path.read_bytes()) == (inode, data)
    found = read_rows(output)
    check_rows(found[: len(ROWS)], rows[: len(ROWS)], folder, 4)
    for number, row in enumerate(found):
        assert row | {"row": number % len(ROWS)} == found[number % len(ROWS)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, ["--num_results=0"], "num_results is 0; ask for 1 to 256"),
        (ROWS, ["--num_beams=0"], "num_beams=0, batch_size=64: at least 1 each"),
        (ROWS, ["--shard_users=0"], "shard_users=0: at least 1"),
        (ROWS, ["--histories=nobody*.jsonl"], "nobody*.jsonl: no such file"),
        (ROWS, ["--run=other"], "runs/other: no such run"),
        ([], [], "users.jsonl: "),
        ([{"user": "ann"}], [], "no column 'history'; it has user"),
        ([{"history": "B1"}], [], "users.jsonl:1: history must be a list of raw item ids"),
        ([{"history": []}, {"history": [1]}], [], "users.jsonl:2: history must be a list"),
        ([{"history": [], "user": 7}], [], "users.jsonl:1: user must be a raw id"),
        ([{"history": ["\ud800"]}], [], "users.jsonl:1: user and history must be Unicode"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder,  # noqa: F811
    tmp_path,
    capsys,
    rows,
    options,
    message,
):
    histories = save_rows(tmp_path / "users.jsonl", rows)
    arguments = [f"--folder={folder}", "--run=tiger", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as stop:
        on_beam.main(["recommend_on_beam", *arguments, f"--histories={histories}", *options])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_shards_of_other_settings_are_not_mixed(folder, tmp_path, capsys):  # noqa: F811
    recommend(folder, tmp_path / "out")
    arguments = [f"--folder={folder}", "--run=tiger", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit):
        on_beam.main(["recommend_on_beam", *arguments, "--num_beams=5", "--shard_users=3"])
    assert "holds shards made with another num_results, num_beams;" in capsys.readouterr().err


def test_a_shard_that_cannot_be_written_stops_all_with_one_line(
    folder,  # noqa: F811
    tmp_path,
    capsys,
):
    histories = save_rows(tmp_path / "users.jsonl", ROWS)
    (tmp_path / "out" / "rows-000000000004.parquet").mkdir(parents=True)
    arguments = [f"--folder={folder}", "--run=tiger", f"--output={tmp_path / 'out'}"]
    arguments += [f"--histories={histories}", "--shard_users=4"]
    with pytest.raises(SystemExit) as stop:
        on_beam.main(["recommend_on_beam", *arguments])
    assert stop.value.code == 2
    assert "rows-000000000004.parquet: cannot be written" in capsys.readouterr().err
