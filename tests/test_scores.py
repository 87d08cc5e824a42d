"""Tables of scores: means over seeds, and the paper's numbers beside ours."""

import json

import pytest

from launch import results_page
from launch.experiments import scores
from tiger_jax import paper

SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}


def test_mean_of_seeds_worked_by_hand():
    other = {"value": 0.7, "low": 0.6, "high": 0.8}
    found = [dict.fromkeys(scores.SCORES, score) for score in (SCORE, other)]
    # The deviation of 0.5 and 0.7 is 0.2 / sqrt(2), and there are two.
    expected = {"value": 0.6, "low": 0.5, "high": 0.7, "standard_error": 0.1}
    assert scores.mean_scores(found)["ndcg@5"] == pytest.approx(expected)


def test_rows_of_the_paper_stand_behind_ours():
    row = {"scores": dict.fromkeys(scores.SCORES, SCORE), "seeds": [0]}
    rows = {"with user tokens": {**row, "runs": [{"training": {"steps": 3000}}]}}
    result = {"dataset": "beauty", "budget": "cpu", "values": {"rows": rows}}
    ours = " | ".join(["0.5000 (0.4000-0.6000)"] * 4)
    assert scores.scores_table([result], "table8").splitlines()[4:] == [
        f"| with user tokens | cpu, 3,000 steps, 1 seed | {ours} |",
        "| *with user tokens* | *paper* | *0.0454* | *0.0321* | *0.0648* | - |",
        "| *no user information* | *paper* | *0.0446* | *0.0302* | *0.0648* | - |",
    ]


def test_how_many_different_items_the_lists_hold_stands_behind_the_scores():
    cells = dict.fromkeys(scores.SCORES, SCORE)
    run = {"training": {"steps": 3000}, "distinct_items": 1234}
    row = {"scores": cells, "with_history_items": cells, "seeds": [0], "runs": [run]}
    rows = {"with user tokens": row, "popularity": {"scores": cells}}
    result = {"dataset": "beauty", "budget": "cpu", "values": {"rows": rows}}
    header, _, tiger, paper_row, popularity, _ = scores.scores_table(
        [result], "table8"
    ).splitlines()[2:]
    assert header.endswith("| NDCG@10 | items@10 |")
    assert tiger.endswith(" | 1,234 |")
    assert paper_row.endswith(" | - |  |")
    assert popularity.endswith("(0.4000-0.6000) |  |")


def test_a_row_of_recbole_says_its_epochs_and_those_of_pretraining_where_there_is_one():
    options = {"epochs": 20, "pretrain_epochs": 3}
    rows = {
        name: {
            "scores": dict.fromkeys(scores.SCORES, SCORE),
            "seeds": [0],
            "runs": [{"model": name, "options": options, "best_epoch": 17}],
        }
        for name in ("SASRec", "S3Rec")
    }
    result = {"dataset": "beauty", "budget": "cpu", "values": {"rows": rows}}
    lines = scores.scores_table([result], "table8").splitlines()
    assert lines[4].startswith("| SASRec | cpu, 20 epochs, best at 17, 1 seed |")
    assert lines[5].startswith("| S3Rec | cpu, 20 epochs, best at 17, 3 of pretraining, 1 seed |")


def test_numbers_of_the_paper_agree_where_tables_repeat_each_other():
    """Tables 2, 5, 7, 8 and 10 repeat rows of Table 1; misprints are marked."""
    tables = paper.numbers()
    tiger = {dataset: rows["TIGER"] for dataset, rows in tables["table1"]["rows"].items()}
    for dataset, rows in tables["table2"]["rows"].items():
        assert rows["RQ-VAE"] == tiger[dataset]
        assert tables["table7"]["rows"][dataset]["P5"] == tables["table1"]["rows"][dataset]["P5"]
    assert tables["table5"]["rows"]["4"] == tiger["beauty"]
    assert tables["table10"]["rows"]["Beauty alone"] == tiger["beauty"]
    assert tables["table8"]["rows"]["with user tokens"].items() <= tiger["beauty"].items()
    assert "NDCG@10" in tables["table8"]["note"]
    assert "0.3047" in tables["table10"]["note"]
    assert json.loads((results_page.ROOT / "launch" / "paper_numbers.json").read_text()) == tables
