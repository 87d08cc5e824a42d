"""Baselines against brute force in plain Python, and against known figures of Amazon Beauty."""

import gzip
import itertools
import math

import numpy as np
import pytest

from tiger_jax import baselines, metrics

NUM_ITEMS = 30
ITEMS = range(1, NUM_ITEMS + 1)


def make_training_sequences():
    """Sixty users of a small catalogue whose first items are the popular ones."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 12, 60)
    return [np.minimum(generator.geometric(0.1, length), NUM_ITEMS) for length in lengths]


def make_histories():
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 10, 25)
    return [generator.choice(ITEMS, length, replace=False) for length in lengths]


TRAINING = make_training_sequences()
HISTORIES = make_histories()
SEMANTIC_IDS = np.random.default_rng(2).integers(0, 3, (NUM_ITEMS + 1, 4))
EMBEDDINGS = np.random.default_rng(3).normal(1, 1, (NUM_ITEMS, 5)).astype(np.float32)

BASELINES = {
    "popularity": baselines.Popularity(TRAINING, NUM_ITEMS),
    "last prefix": baselines.LastPrefix(TRAINING, SEMANTIC_IDS),
    "item to item": baselines.ItemToItem(TRAINING, NUM_ITEMS),
    "content neighbours": baselines.ContentNeighbours(EMBEDDINGS),
    "counts with content": baselines.CountsWithContent(TRAINING, EMBEDDINGS, 0.4, 0.3),
}


# --- The same in plain Python: {item: key}, a larger key ranks first ---


def popularity(history=None):
    return {item: sum(list(sequence).count(item) for sequence in TRAINING) for item in ITEMS}


def last_prefix(history):
    def shared(item):
        pairs = zip(SEMANTIC_IDS[item], SEMANTIC_IDS[history[-1]], strict=True)
        same = [code == last_code for code, last_code in pairs]
        return (*same, False).index(False)

    return {item: (shared(item), count) for item, count in popularity().items()}


def item_to_item(history):
    followers = [
        later
        for sequence in TRAINING
        for earlier, later in itertools.pairwise(sequence)
        if earlier == history[-1]
    ]

    def key(item, count):
        return (followers.count(item), 0) if item in followers else (0, count)

    return {item: key(item, count) for item, count in popularity().items()}


def content_neighbours(history):
    return {item: cosine(EMBEDDINGS[history[-1] - 1], EMBEDDINGS[item - 1]) for item in ITEMS}


def counts_with_content(history):
    pairs = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    for sequence in TRAINING:
        for place, earlier in enumerate(sequence):
            for distance, later in enumerate(sequence[place + 1 : place + 4], start=1):
                pairs[earlier, later] += 1 / distance
                pairs[later, earlier] += 0.5 / distance
    centred = EMBEDDINGS.astype(np.float64) - EMBEDDINGS.astype(np.float64).mean(axis=0)
    counts, profile = np.zeros(NUM_ITEMS + 1), np.zeros(EMBEDDINGS.shape[1])
    for age, item in enumerate(reversed(history)):
        if age < 6:
            counts += 0.6**age * pairs[item] / math.sqrt(pairs[item].sum() or 1)
            profile += 0.6**age * centred[item - 1]
    content = {item: math.exp(cosine(profile, centred[item - 1]) / 0.3) for item in ITEMS}
    total = sum(content.values())
    return {
        item: 0.4 * counts[item] / (counts.sum() or 1) + 0.6 * content[item] / total
        for item in ITEMS
    }


def cosine(one, other):
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


BRUTE_FORCE = {
    "popularity": popularity,
    "last prefix": last_prefix,
    "item to item": item_to_item,
    "content neighbours": content_neighbours,
    "counts with content": counts_with_content,
}


def best_first(keys):
    return sorted(ITEMS, key=lambda item: (*(-np.atleast_1d(keys[item])), item))


@pytest.mark.parametrize("name", BASELINES)
def test_lists_equal_brute_force(name):
    ranked = BASELINES[name].recommend(None, HISTORIES, 8, exclude_history=False)
    for row, history in enumerate(HISTORIES):
        assert ranked.item_numbers[row].tolist() == best_first(BRUTE_FORCE[name](history))[:8]


def test_mixture_scores_equal_brute_force_and_sum_to_one():
    scores_BN = BASELINES["counts with content"].scores(HISTORIES)
    expected = [list(counts_with_content(history).values()) for history in HISTORIES]
    np.testing.assert_allclose(scores_BN[:, 1:], expected, rtol=1e-4)
    np.testing.assert_allclose(scores_BN.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_excluding_the_history_equals_removing_it_from_the_whole_catalogue(name):
    ranked = BASELINES[name].recommend(None, HISTORIES, 8)
    whole = BASELINES[name].recommend(None, HISTORIES, NUM_ITEMS, exclude_history=False)
    whole = whole.without(HISTORIES).top(8)
    np.testing.assert_array_equal(ranked.item_numbers, whole.item_numbers)
    np.testing.assert_array_equal(ranked.scores, whole.scores)


@pytest.mark.parametrize("name", BASELINES)
def test_batches_change_nothing(name, monkeypatch):
    together = BASELINES[name].recommend(None, HISTORIES, 8, exclude_history=False)
    monkeypatch.setattr(baselines, "_SCORES_AT_ONCE", 4 * NUM_ITEMS)
    in_batches = BASELINES[name].recommend(None, HISTORIES, 8, exclude_history=False)
    np.testing.assert_array_equal(in_batches.item_numbers, together.item_numbers)


@pytest.mark.parametrize("name", BASELINES)
def test_a_list_longer_than_the_catalogue_ends_in_unused_slots(name):
    ranked = BASELINES[name].recommend(None, HISTORIES, NUM_ITEMS + 3, exclude_history=True)
    for row, history in enumerate(HISTORIES):
        num_found = NUM_ITEMS - len(history)
        found = ranked.item_numbers[row, :num_found]
        assert sorted([*found, *history]) == list(ITEMS)
        assert not ranked.item_numbers[row, num_found:].any()
        assert ranked.used[row].sum() == num_found


@pytest.mark.parametrize("name", BASELINES)
def test_no_users_get_no_lists(name):
    assert BASELINES[name].recommend(None, [], 3).item_numbers.shape == (0, 3)


@pytest.mark.parametrize("name", BASELINES)
def test_an_empty_history_gets_a_whole_list(name):
    ranked = BASELINES[name].recommend(None, [[]], 8)
    assert len(set(ranked.item_numbers[0]) - {0}) == 8


def test_ties_rank_the_lower_item_number_first():
    scores_BN = np.random.default_rng(4).integers(0, 4, (50, 200)).astype(np.float32)
    ranked = baselines.best_items(scores_BN, 60)
    expected = np.argsort(-scores_BN[:, 1:], axis=1, kind="stable")[:, :60] + 1
    np.testing.assert_array_equal(ranked.item_numbers, expected)


def test_transition_counts_as_worked_by_hand():
    counts_NN = baselines.transition_counts([[1, 2, 3, 1], [2, 3]], 3, 2, 0.5).toarray()
    # Forward: 1-2, 3-1 once, 2-3 twice; at distance two 1-3 and 2-1 count a half.
    forward = np.zeros((4, 4))
    forward[1, 2], forward[2, 3], forward[3, 1], forward[1, 3], forward[2, 1] = 1, 2, 1, 0.5, 0.5
    np.testing.assert_array_equal(counts_NN, forward + 0.5 * forward.T)


def test_the_chosen_mixture_is_the_best_of_those_tried():
    generator = np.random.default_rng(5)
    targets = np.array(
        [generator.choice(np.setdiff1d(ITEMS, history)) for history in HISTORIES], np.int32
    )
    chosen = baselines.choose_mixture(TRAINING, EMBEDDINGS, HISTORIES, targets)
    ndcg = {}
    for mixture in baselines._MIXTURES:
        baseline = baselines.CountsWithContent(TRAINING, EMBEDDINGS, *mixture)
        ranked = baseline.recommend(None, HISTORIES, 10, exclude_history=True)
        ndcg[mixture] = metrics.score(ranked, targets)["ndcg@10"]["value"]
    assert len(set(ndcg.values())) > 1
    assert ndcg[chosen] == max(ndcg.values())


@pytest.fixture(scope="module")
def beauty(amazon_data):
    """Sequences of item numbers, numbered by first appearance, and the number of items."""
    numbers = {}
    with gzip.open(amazon_data / "beauty" / "sequences.txt.gz", "rt") as lines:
        sequences = [
            [numbers.setdefault(item, len(numbers) + 1) for item in line.split()[1:]]
            for line in lines
        ]
    return sequences, len(numbers)


@pytest.mark.parametrize(
    ("baseline", "known"),
    [
        (
            baselines.Popularity,
            {"recall@5": 0.0075, "ndcg@5": 0.0041, "recall@10": 0.0115, "ndcg@10": 0.0055},
        ),
        (
            baselines.ItemToItem,
            {"recall@5": 0.0514, "ndcg@5": 0.0391, "recall@10": 0.0657, "ndcg@10": 0.0437},
        ),
    ],
)
def test_figures_of_amazon_beauty(beauty, baseline, known):
    """Known independently, to four digits; counts from training sequences, history removed."""
    sequences, num_items = beauty
    recommender = baseline([sequence[:-2] for sequence in sequences], num_items)
    histories = [sequence[:-1] for sequence in sequences]
    ranked = recommender.recommend(None, histories, 10, exclude_history=True)
    result = metrics.score(ranked, np.array([sequence[-1] for sequence in sequences]))
    values = {name: interval["value"] for name, interval in result.items()}
    assert values == pytest.approx(known, abs=0.00005001)
