"""Unseen items enter lists by rules that are worked by hand."""

import types

import jax
import numpy as np
import pytest

from launch.experiments import figure5
from tiger_jax import cold_start
from tiger_jax.cold_start import Catalogue, Found, Wanted
from tiger_jax.metrics import RankedItems
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids import schemes
from tiger_jax.vocabulary import Vocabulary

# Four seen items, then three unseen ones.
CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0], [0, 0, 1], [0, 2, 2], [1, 1, 1]])
NOTHING = -np.inf


def ranked(*lists):
    """[(item, score), ...] a user."""
    return RankedItems(
        np.array([[item for item, _ in found] for found in lists], np.int32),
        np.array([[score for _, score in found] for found in lists], np.float32),
    )


def catalogue():
    embeddings = np.eye(7)[[0, 1, 2, 3, 1, 2, 6]]
    return Catalogue.of(CODES, embeddings, 4)


@pytest.mark.parametrize(
    ("share", "num_results", "limit"),
    [(0.1, 10, 1), (0.1, 5, 0), (0.1, 19, 1), (0.1, 20, 2), (0.3, 10, 3), (0.7, 10, 7), (1, 4, 4)],
)
def test_at_most_a_share_of_the_results_is_unseen(share, num_results, limit):
    assert cold_start.most_unseen(share, num_results) == limit


def test_rounded_up_a_list_of_five_may_have_one_unseen_item_at_a_tenth():
    assert [cold_start.most_unseen(0.1, k, round_up=True) for k in (5, 10, 15, 20)] == [1, 1, 2, 2]
    assert cold_start.most_unseen(0.3, 10, round_up=True) == 3


def test_unseen_items_keep_their_places_by_score_and_leave_the_rest_to_seen_ones():
    seen = ranked([(1, -1.0), (2, -2.0), (3, -3.0), (4, -4.0)])
    unseen = ranked([(7, -0.5), (5, -2.0), (6, -2.5)])
    lists = [
        cold_start.with_unseen(seen, unseen, 4, limit).item_numbers[0].tolist()
        for limit in range(4)
    ]
    assert lists == [[1, 2, 3, 4], [7, 1, 2, 3], [7, 1, 2, 5], [7, 1, 2, 5]]


def test_no_list_has_more_unseen_items_than_its_share_and_seen_ones_keep_their_order():
    random = np.random.default_rng(0)
    scores = -np.sort(random.exponential(size=(50, 12)), axis=1)
    seen = RankedItems(np.tile(np.arange(1, 13), (50, 1)), scores)
    unseen = RankedItems(np.tile(np.arange(21, 33), (50, 1)), scores[::-1])
    for share in (0, 0.25, 0.5, 1):
        for k in (1, 5, 10):
            found = cold_start.with_unseen(seen, unseen, k, cold_start.most_unseen(share, k))
            is_unseen = found.item_numbers > 20
            assert (is_unseen.sum(axis=1) <= share * k).all()
            for items in found.item_numbers:
                assert items[items < 20].tolist() == list(range(1, (items < 20).sum() + 1))


def test_shared_codes_count_from_the_first_on():
    shared = [[2, 1, 0], [3, 1, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(catalogue().shared_SU, [[0, 0, 0], *shared])
    # Unseen: one shares three codes, one a single code, one none.
    assert catalogue().share_by_longest_prefix() == [1 / 3, 1 / 3, 0, 1 / 3]


def test_paper_rule_puts_unseen_items_with_the_three_codes_right_behind_the_predicted_one():
    seen = ranked([(4, -1.0), (2, -2.0), (1, -3.0)], [(4, -1.0), (1, -2.0), (3, -3.0)])
    unseen = cold_start.candidates(seen, catalogue().by_prefix(), 2)
    assert unseen.item_numbers.tolist() == [[5, 0], [0, 0]]
    merged = cold_start.with_unseen(seen, unseen, 4, 4).item_numbers
    assert merged.tolist() == [[4, 2, 5, 1], [4, 1, 3, 0]]


def test_shorter_prefixes_lose_their_penalty_for_each_level():
    seen = ranked([(4, -1.0), (1, -2.0), (3, -2.5)])
    unseen = cold_start.candidates(seen, catalogue().by_prefix(penalty=0.75), 3, bonus=0.25)
    # Item 5 by item 1, two codes, one level lost; item 6 by item 1 too, two levels lost.
    assert unseen.item_numbers.tolist() == [[5, 6, 0]]
    np.testing.assert_allclose(unseen.scores, [[-2.5, -3.25, -np.inf]])


def test_like_content_brings_unseen_items_with_equal_ones_first():
    affinity = catalogue().by_content(0.1)
    # Items 2 and 5, and 3 and 6, have equal embeddings.
    np.testing.assert_allclose(affinity[[2, 3], [0, 1]], 0, atol=1e-5)
    assert (affinity[1:] <= 1e-5).all()
    unseen = cold_start.candidates(ranked([(3, -1.0), (2, -1.5)]), affinity, 3)
    assert unseen.item_numbers[0, :2].tolist() == [6, 5]
    np.testing.assert_allclose(unseen.scores[0, :2], [-1.0, -1.5], atol=1e-5)


def test_history_is_worth_its_weight_and_less_with_age():
    extended = cold_start.with_history(ranked([(1, -1.0)], [(2, -1.0)]), [[3, 4], []], 0.5)
    assert extended.item_numbers[:, :3].tolist() == [[1, 4, 3], [2, 0, 0]]
    np.testing.assert_allclose(
        np.exp(extended.scores[:, 1:4]), [[0.5, 0.3, 0], [0, 0, 0]], rtol=1e-6
    )


def test_new_items_have_the_quantizers_codes_and_filters_of_their_own():
    """Either search finds what the other does not, and together they find the whole catalogue."""
    embeddings = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    codes = schemes.residual(embeddings[:20], seed=0, codebook_sizes=(4, 4))
    table = codes.table({"scheme": "hand"})
    vocabulary = Vocabulary(table.codebook_sizes, 0)
    network = NetworkConfig(
        vocab_size=vocabulary.size, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8,
        num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0, logits_via_embedding=True,
    )  # fmt: skip
    model = TigerModel(network, vocabulary)
    params = model.init(jax.random.key(0))
    # With room for more than come.
    recommender = Recommender(model, params, table, 4, num_beams=30, capacity=35)
    grown = cold_start.with_new_items(recommender, codes.quantizer, embeddings[20:])
    ids = grown.table.semantic_ids_NI
    np.testing.assert_array_equal(ids[:21], table.semantic_ids_NI)
    np.testing.assert_array_equal(ids[21:, :2], codes.quantizer.codes(embeddings[20:]))
    wanted = Wanted(["ann", "bob"], [[1, 2], [3]], np.array([5, 25]), 20, 0.5)
    found = Found.search(grown, wanted, Catalogue.of(ids[1:, :2], embeddings, 20), 30)
    for row, history in enumerate(wanted.histories):
        items = found.seen.item_numbers[row]
        assert sorted(items[items > 0]) == sorted(set(range(1, 21)) - set(history))
        assert sorted(found.own.item_numbers[row, :10]) == list(range(21, 31))
    # Without a limit, the two lists by score are the list of a search over all.
    everything = grown.recommend(["ann", "bob"], wanted.histories, 25, exclude_history=True)
    merged = found.ranked(found.own, 25, share=1.0)
    np.testing.assert_array_equal(merged.item_numbers, everything.item_numbers)


def hand_made():
    """Two users want the unseen items 5 and 6, two want seen ones; lists worked by hand."""
    wanted = Wanted(["a", "b", "c", "d"], [[4], [4], [4], [4]], np.array([5, 6, 1, 2]), 4, 0.2)
    seen = ranked(*[[(item, -1.0 - item) for item in (1, 2, 3)]] * 4)
    return Found(wanted, catalogue(), seen, ranked(*[[(5, -6.0), (7, -6.5), (6, -7.0)]] * 4))


def test_means_weigh_the_two_groups_as_the_whole_split_has_them():
    means = hand_made().wanted.means(np.array([1.0, 0.0, 1.0, 1.0]))
    assert means["unseen"]["value"] == 0.5
    assert means["all"]["value"] == pytest.approx(0.2 * 0.5 + 0.8 * 1.0)
    # Half the 95 % interval: 1.96 * sqrt(0.25 / 2), and nothing from the others.
    assert means["unseen"]["error"] == pytest.approx(1.96 * 0.125**0.5)
    assert means["all"]["error"] == pytest.approx(0.2 * 1.96 * 0.125**0.5)


def test_bonus_is_the_one_that_finds_most_and_pushes_no_seen_target_out():
    """With room for ten, three unseen items push nobody out: any bonus finds both targets."""
    found = hand_made()
    rule = found.choose(cold_start.RULES[cold_start.OWN_IDS])
    gains = found.wanted.gains(found.ranked(found.unseen(rule), 10, 1.0), 10)
    assert gains.tolist() == [1, 1, 1, 1]
    # The paper's rule is what it is.
    paper = found.choose(cold_start.RULES[cold_start.THREE_CODES])
    assert paper == cold_start.Rule(cold_start.THREE_CODES)


def test_bonus_that_costs_all_users_too_much_is_not_chosen():
    """Twelve unseen items before the ten seen ones would push all targets out."""
    wanted = Wanted(["a", "b"], [[], []], np.array([10, 11]), 10, 0.5)
    seen = ranked(*[[(item, -5.0 - 0.01 * item) for item in range(1, 11)]] * 2)
    own = ranked(*[[(item, -8.0 - 0.01 * item) for item in range(22, 10, -1)]] * 2)
    found = Found(wanted, None, seen, own)
    rule = found.choose(cold_start.RULES[cold_start.OWN_IDS])
    gains = wanted.gains(found.ranked(found.unseen(rule), 10, 1.0), 10)
    assert gains.tolist() == [1, 0]


def test_figure_5_chooses_on_validation_and_measures_on_test(monkeypatch):
    def found(cold, ids, name, held_out, split, folder):
        return types.SimpleNamespace(split=split, choose=lambda rules: (split, rules[0].name))

    def measured(test, chosen, neighbours):
        return {"measured": test.split, "chosen": chosen, "neighbours": neighbours}

    cold = types.SimpleNamespace(
        content_ids=lambda: "ids", train=lambda ids, seed: "run", tables={"ids": "checksum"}
    )
    monkeypatch.setattr(figure5.HoldOut, "draw", lambda *arguments, **named: None)
    monkeypatch.setattr(figure5, "_of_seen_items", lambda setting, held_out: cold)
    monkeypatch.setattr(figure5, "_found", found)
    monkeypatch.setattr(figure5, "_neighbours", lambda setting, held_out, found: found.split)
    monkeypatch.setattr(figure5, "_measured", measured)
    budget = types.SimpleNamespace(is_toy=False)
    setting = types.SimpleNamespace(sequences=None, budget=budget, folder=None, seeds=(0,))
    (run,) = figure5.run(setting)["runs"]
    assert (run["measured"], run["neighbours"]) == ("test", "test")
    assert run["chosen"] == [("validation", name) for name in cold_start.RULES]
