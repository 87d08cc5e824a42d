"""Rows of a recorded table: which are taken as they are, which are made again."""

import pytest

from launch.experiments import scores
from launch.experiments.budgets import BUDGETS
from launch.experiments.scores import SCORES
from launch.experiments.setting import Setting

PARTS = ("without_history_items", "with_history_items")
EQUAL_SCORES = {name: {"value": 0.2, "low": 0.1, "high": 0.3} for name in SCORES}


def test_a_recorded_row_serves_the_seeds_it_has_and_others_are_made():
    """Means and standard errors over the seeds by hand: hits of a tenth of the seed."""
    made = []

    def make(seed):
        made.append(seed)
        score = {name: dict.fromkeys(("value", "low", "high"), seed / 10) for name in SCORES}
        found = {"without_history_items": score, "with_history_items": score, "run": f"run-{seed}"}
        return scores.seed_row(found, seed, ("run",))

    def row(seeds, rows, card="", ids_card="", flags=()):
        made.clear()
        setting = Setting("beauty", BUDGETS["toy"], seeds, {"rows": rows})
        *_, found = setting.growing_row("one", make, card, ids_card, flags)
        return found

    two = row((0, 1), {})
    assert made == two["seeds"] == [0, 1]
    assert row((0,), {"one": two}) == row((1, 0), {"one": two}) == two
    assert not made
    four = row((0, 1, 2, 3), {"one": two})
    assert made == [2, 3]
    assert [run["run"] for run in four["runs"]] == ["run-0", "run-1", "run-2", "run-3"]
    assert four["scores"]["recall@5"] == pytest.approx(
        {"value": 0.15, "low": 0.15, "high": 0.15, "standard_error": (0.05 / 3) ** 0.5 / 2}
    )
    row((0,), {"another": two})
    assert made == [0]
    row((0,), {"one": two}, "gin/baseline/sasrec.gin")
    assert made == [0]
    by_lsh = row((0,), {"one": two}, ids_card="lsh")
    assert made == [0]
    assert row((0,), {"one": by_lsh}, ids_card="lsh") == by_lsh
    assert not made
    row((0,), {"one": by_lsh}, ids_card="random")
    assert made == [0]
    flagged = row((0,), {"one": two}, flags=("--order_noise=1.0",))
    assert made == [0]
    assert row((0,), {"one": flagged}, flags=("--order_noise=1.0",)) == flagged
    assert not made


def test_a_row_made_again_may_be_of_other_ids_than_before():
    """Those of the rows that stay are still the only ones."""
    stale = {"recipe": "another", "seeds": [0], "runs": [{"run": "r", "training": {"table": "x"}}]}
    setting = Setting(
        "beauty",
        BUDGETS["toy"],
        (0,),
        {"rows": {"one": stale}},
        {"theirs": "x", "of others": "y"},
        {"r": {"steps": 1}, "of others": {"steps": 2}},
    )
    new = scores.seed_row(dict.fromkeys(PARTS, EQUAL_SCORES), 0, ())
    [row] = setting.growing_row("one", lambda seed: new)
    assert row["runs"] == new["runs"]
    assert setting.tables == {"of others": "y"}
    assert setting.trained == {"of others": {"steps": 2}}
