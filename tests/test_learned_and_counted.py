"""What is said of model and counts side by side, against sums over all items by hand."""

import json

import numpy as np
import pytest

from launch import learned_and_counted
from tests.test_fusion import shop  # noqa: F401
from tests.test_recommend import NUM_ITEMS, USERS, folder, ragged, recommender, table  # noqa: F401
from tiger_jax import baselines
from tiger_jax.artifacts import InputError

TARGETS = np.arange(1, 12)


def test_losses_of_the_parts_sum_to_that_of_the_item():
    losses_BI = learned_and_counted.model_losses(recommender(), USERS, ragged(), TARGETS)
    everything = recommender(num_beams=NUM_ITEMS).recommend(
        USERS, ragged(), NUM_ITEMS, exclude_history=False
    )
    of_target = everything.scores[everything.item_numbers == TARGETS[:, None]]
    np.testing.assert_allclose(losses_BI.sum(axis=1), -of_target, atol=1e-5)


def test_counts_are_pushed_down_the_trie():
    """Each level's probability is a ratio of sums over the items that share a prefix."""
    training = [[1, 2, 3, 4, 5], [2, 3, 4, 9], [11, 3, 4]]
    embeddings_NE = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
    counts = baselines.CountsWithContent(training, embeddings_NE, 0.6, 0.2)
    ids_NI = table().semantic_ids_NI
    found_BI = learned_and_counted.counts_losses(counts, ids_NI, ragged(), TARGETS)
    for user, probabilities_N in enumerate(counts.scores(ragged())):
        before = probabilities_N.sum()
        for level in range(3):
            prefix = ids_NI[TARGETS[user], : level + 1].tolist()
            below = [
                item
                for item in range(1, NUM_ITEMS + 1)
                if ids_NI[item, : level + 1].tolist() == prefix
            ]
            mass = probabilities_N[below].sum()
            assert found_BI[user, level] == pytest.approx(-np.log(mass / before), rel=1e-4)
            before = mass


def test_a_seed_that_is_none_is_refused_at_the_start():
    with pytest.raises(InputError, match="seed is -1"):
        learned_and_counted.decompose("nowhere", "tiger", seed=-1)


def test_targets_are_told_apart_by_what_they_came_with_and_how_often():
    training = [[1, 2, 3, 4, 5], [5, 6], [7, 8]]
    histories = [[5, 1], [1, 7], [9], [8, 9]]
    targets = np.array([4, 4, 4, 7])
    found = learned_and_counted.relations(training, 9, histories, targets)
    assert [found[name].tolist() for name in learned_and_counted._RELATIONS] == [
        [True, False, False, False],  # 1 and 4 are three places apart
        [False, True, False, True],
        [False, False, True, False],
    ]
    often = learned_and_counted.frequencies([[1] * 5 + [2] * 6 + [3] * 99], 9, np.array([1, 2, 3]))
    assert {name: is_in.tolist() for name, is_in in often.items() if is_in.any()} == {
        "up to 5": [True, False, False],
        "up to 10": [False, True, False],
        "above 50": [False, False, True],
    }


def test_command_says_how_both_do(shop, capsys):  # noqa: F811
    arguments = [f"--folder={shop}", "--run=tiger", f"--output={shop}/x.json", "--json"]
    learned_and_counted.main(["learned_and_counted", *arguments])
    *_, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert json.loads((shop / "x.json").read_text()) == result
    everyone = result["groups"]["all"]["all"]
    assert everyone["num_users"] == 40
    for kind in ("co-occurred", "frequency"):
        groups = result["groups"][kind].values()
        for who in ("model", "counts"):
            hits = sum(group[who]["recall@10"] * group["num_users"] for group in groups)
            assert hits == pytest.approx(40 * everyone[who]["recall@10"])
            assert sum(everyone[who]["level_losses"]) == pytest.approx(everyone[who]["loss"])
