"""The list of runs, whatever state they are in."""

import json

import pytest

from tiger_jax import artifacts, runs
from tiger_jax.artifacts import InputError


def line(step, ndcg):
    return json.dumps({"step": step, "recall@10": 2 * ndcg, "ndcg@10": ndcg}) + "\n"


@pytest.fixture
def work(tmp_path):
    """Two datasets; a finished run, one without a validation yet, and ruins."""
    finished = tmp_path / "beauty" / "runs" / "finished"
    settings = {"ids": "rqvae", "provenance": {"commit": "abc123"}}
    artifacts.save_json(tmp_path / "beauty" / "content_embeddings.json", {"dataset": "Beauty"})
    artifacts.save_json(finished / "run.json", settings)
    (finished / "metrics.jsonl").write_text(line(10, 0.1) + line(20, 0.3) + line(1000, 0.2))
    scores = {name: {"value": value} for name, value in (("recall@10", 0.25), ("ndcg@10", 0.125))}
    artifacts.save_json(finished / "eval" / "test" / "eval.json", {"step": 20, **scores})
    artifacts.save_json(tmp_path / "beauty" / "runs" / "begun" / "run.json", settings)
    ruin = tmp_path / "toys" / "runs" / "ruin"
    (ruin / "eval" / "test").mkdir(parents=True)
    (ruin / "run.json").write_text('{"ids": ')
    (ruin / "metrics.jsonl").write_text(line(5, 0.5) + '{"step": 6}\nnull\n{"step": 7, "reca')
    (ruin / "eval" / "test" / "eval.json").write_text("[1, 2]")
    return tmp_path


def test_a_row_has_the_best_validation_and_the_test(work):
    begun, finished, ruin = runs.runs(str(work))["runs"]
    assert finished == {
        "run": "finished",
        "folder": str(work / "beauty" / "runs" / "finished"),
        "dataset": "Beauty",
        "ids": "rqvae",
        "steps": 1000,
        "validation": {"step": 20, "recall@10": 0.6, "ndcg@10": 0.3},
        "test": {"step": 20, "recall@10": 0.25, "ndcg@10": 0.125},
        "commit": "abc123",
    }
    assert (begun["steps"], begun["validation"], begun["test"]) == (0, None, None)
    assert (ruin["dataset"], ruin["ids"], ruin["steps"], ruin["commit"]) == ("toys", None, 6, None)
    assert ruin["validation"] == {"step": 5, "recall@10": 1.0, "ndcg@10": 0.5}
    assert ruin["test"] is None


def test_a_prepared_folder_lists_its_own_runs(work):
    assert [row["run"] for row in runs.runs(str(work / "toys"))["runs"]] == ["ruin"]


def test_the_table_has_a_line_a_run(work, capsys):
    runs.main(["runs", f"--folder={work}", "--json"])
    *table, as_json = capsys.readouterr().out.splitlines()
    assert [text.split() for text in table] == [
        ["folder", "dataset", "ids", "steps", "validation", "test", "commit"],
        [f"{work}/beauty/runs/begun", "Beauty", "rqvae", "0", "-", "-", "abc123"],
        [
            f"{work}/beauty/runs/finished",
            "Beauty",
            "rqvae",
            "1,000",
            "0.6000",
            "0.3000",
            "0.2500",
            "0.1250",
            "abc123",
        ],
        [f"{work}/toys/runs/ruin", "toys", "-", "6", "1.0000", "0.5000", "-", "-"],
    ]
    assert [row["run"] for row in json.loads(as_json)["runs"]] == ["begun", "finished", "ruin"]


def test_no_runs_and_no_folder_are_one_clear_line(tmp_path, capsys):
    assert runs.runs(str(tmp_path)) == {"runs": []}
    assert "no runs yet; python -m tiger_jax.train" in capsys.readouterr().out
    with pytest.raises(InputError, match="nowhere: no such folder; say with --folder"):
        runs.runs(str(tmp_path / "nowhere"))
