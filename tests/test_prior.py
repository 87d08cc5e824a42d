"""A prior along the trie, against mixing the scores of all items."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.test_beam import (
    build,
    constrained,
    histories,
    ids_of,
    log_probs_of_all,
    random_ids,
    skewed_ids,
    tiny_model,
    token_log_probs,
    valid_log_probs,
)
from tests.test_recommend import NUM_ITEMS, USERS, ragged, recommender
from tiger_jax import recommender as recommender_module
from tiger_jax import requests as requests_module
from tiger_jax.artifacts import InputError
from tiger_jax.model import beam
from tiger_jax.model.prior import Prior
from tiger_jax.semantic_ids.filters import Filters, Restriction
from tiger_jax.semantic_ids.levels import CountLevel, UnaryLevel
from tiger_jax.semantic_ids.trie import Trie

SIZES = (5, 4, 6)
WEIGHTS = np.array([0.3, 0.0, 0.9], np.float32)


def prior_over(ids, seed=0, places=8, weights=WEIGHTS):
    """Three users' uneven distributions over some of the items, with places to spare."""
    random = np.random.default_rng(seed)
    used = min(places - 1, len(ids))
    semantic_ids_BQI = np.full((3, places, len(ids[0])), -1)
    probabilities_BQ = np.full((3, places), 0.5, np.float32)  # of an unused place, nobody's
    for user in range(3):
        chosen = random.permutation(len(ids))[:used]
        semantic_ids_BQI[user, :used] = np.array(ids)[chosen]
        probabilities_BQ[user, :used] = random.dirichlet(np.full(used, 0.3))
    return Prior(semantic_ids_BQI, probabilities_BQ, np.asarray(weights, np.float32))


def dense(prior, ids):
    """p_prior of each sorted ID, float64 [3, N]."""
    place = {item: number for number, item in enumerate(sorted(ids))}
    probabilities_BN = np.zeros((3, len(ids)))
    for user, items in enumerate(np.asarray(prior.semantic_ids_BQI).tolist()):
        for item, probability in zip(map(tuple, items), prior.probabilities_BQ[user], strict=True):
            if item in place:
                probabilities_BN[user, place[item]] += probability
    return probabilities_BN


def mixed_by_hand(model_scores_BN, prior_BN, weights_B):
    """log p of all items where their probabilities are mixed one by one."""
    weights_B1 = np.asarray(weights_B, np.float64)[:, None]
    with np.errstate(divide="ignore"):
        return np.log((1 - weights_B1) * np.exp(model_scores_BN) + weights_B1 * prior_BN)


def check_ranking(found, expected_BN):
    """All items of finite score in the order of brute force, and nothing else."""
    for rows_M, scores_M, expected_N in zip(*found, expected_BN, strict=True):
        count = np.isfinite(expected_N).sum()
        assert sorted(rows_M[:count]) == np.flatnonzero(np.isfinite(expected_N)).tolist()
        assert (rows_M[count:] == -1).all()
        assert (scores_M[count:] == -np.inf).all()
        np.testing.assert_allclose(scores_M[:count], expected_N[rows_M[:count]], atol=2e-5)
        assert (np.diff(scores_M[:count]) <= 0).all()


@pytest.mark.parametrize("normalize", ["level", "valid"])
def test_wide_beam_equals_mixing_the_scores_of_all_items(normalize):
    model, params = tiny_model(SIZES, "full" if normalize == "valid" else normalize)
    ids, tokens_BS = sorted(random_ids(SIZES, 40)), histories(model)
    prior = prior_over(ids)
    found = constrained(
        model, params, build(ids, SIZES), tokens_BS, 64, normalize=normalize, prior=prior
    )
    if normalize == "valid":
        scores_BN = np.stack([valid_log_probs(model, params, ids, tokens) for tokens in tokens_BS])
    else:
        scores_BN = log_probs_of_all(model, params, tokens_BS, model.vocabulary.tokens(ids))
    check_ranking(found, mixed_by_hand(scores_BN, dense(prior, ids), WEIGHTS))
    if normalize == "valid":
        np.testing.assert_allclose(np.exp(found[1]).sum(axis=1), 1, atol=1e-5)


@functools.cache
def roomy_trie():
    """One shape for all catalogues of up to 40 items."""
    table_NI = np.array([(0, 0, 0), *((0, 0, code) for code in (1, 3, 5))])
    return Trie.from_semantic_ids(table_NI, SIZES, capacity=40)


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([0.0, 1e-6, 0.1, 0.5, 0.999, 1.0]), min_size=3, max_size=3),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_prior_over_what_is_left_of_any_catalogue(num_items, seed, weights, kept, denied):
    """Filters and denied items of each request's own: those left out count for neither side."""
    model, params = tiny_model(SIZES)
    tokens_BS = histories(model)
    everything = random_ids(SIZES, 40, seed=1)
    ids = sorted(everything[:num_items])
    trie = roomy_trie().updated(np.array([(0, 0, 0), *ids]))
    random = np.random.default_rng(seed)
    is_open_BN = random.random((3, num_items)) < kept
    is_denied_BN = random.random((3, num_items)) < denied
    denied_BDI = np.full((3, 40, 3), -1)
    for user in range(3):
        taken = np.array(ids)[is_denied_BN[user]]
        denied_BDI[user, : len(taken)] = taken
    filters = Filters.build(trie, np.pad(is_open_BN, ((0, 0), (1, 0))))
    restriction = Restriction(filters, np.arange(1, 4, dtype=np.int32), denied_BDI)
    # Some of the prior's items are not in the catalogue at all.
    prior = prior_over(everything, seed, weights=weights)
    found = constrained(model, params, trie, tokens_BS, 64, restriction=restriction, prior=prior)
    scores_BN = log_probs_of_all(model, params, tokens_BS, model.vocabulary.tokens(everything))
    scores_BN = scores_BN[:, [everything.index(item) for item in ids]]
    is_left_BN = is_open_BN & ~is_denied_BN
    mixed_BN = mixed_by_hand(scores_BN, dense(prior, ids), prior.weights_B)
    check_ranking(found, np.where(is_left_BN, mixed_BN, -np.inf))


def test_weights_zero_and_one_are_the_plain_search_and_the_priors_own_ranking():
    """The former bit for bit."""
    model, params = tiny_model(SIZES)
    ids, tokens_BS = sorted(random_ids(SIZES, 40)), histories(model)
    prior, trie = prior_over(ids, weights=[0, 1, 0]), build(ids, SIZES)
    plain = constrained(model, params, trie, tokens_BS, 9)
    rows_BM, scores_BM = constrained(model, params, trie, tokens_BS, 9, prior=prior)
    for found, expected in zip((rows_BM, scores_BM), plain, strict=True):
        np.testing.assert_array_equal(found[::2], expected[::2])
    probabilities_N = dense(prior, ids)[1]
    expected_M = np.argsort(-probabilities_N, kind="stable")[:7]
    assert rows_BM[1].tolist() == [*expected_M.tolist(), -1, -1]
    np.testing.assert_allclose(np.exp(scores_BM[1, :7]), probabilities_N[expected_M], rtol=1e-5)
    assert (scores_BM[1, 7:] == -np.inf).all()


def reference_beam(model, params, ids, tokens_S, probabilities_N, weight, num_beams):
    """Beam search over prefixes as Python tuples, ranked by the mixture of both masses."""
    targets_NI = model.vocabulary.tokens(np.array(ids))
    log_probs_NI = np.asarray(token_log_probs(model, params, tokens_S, targets_NI), np.float64)
    beams = [()]
    for level in range(len(ids[0])):
        mass = {}
        for item, log_probs_I, probability in zip(ids, log_probs_NI, probabilities_N, strict=True):
            prefix = item[: level + 1]
            if prefix[:-1] in beams:
                own = (1 - weight) * np.exp(log_probs_I[: level + 1].sum())
                mass[prefix] = mass.get(prefix, own) + weight * probability
        beams = sorted(mass, key=lambda prefix: -mass[prefix])[:num_beams]
    return beams, [np.log(mass[prefix]) for prefix in beams]


@pytest.mark.parametrize(
    ("ids", "sizes", "last"),
    [
        (random_ids(SIZES, 50), SIZES, None),
        (skewed_ids(300), (256,) * 4, CountLevel),
        ([(a, b, 7 * a + b) for a in range(6) for b in range(5)], (6, 5, 40), UnaryLevel),
    ],
    ids=["bits", "counts", "single codes"],
)
def test_narrow_beam_equals_a_reference_in_python(ids, sizes, last):
    model, params = tiny_model(sizes, tied=False)
    tokens_BS, ids = histories(model), sorted(ids)
    prior, trie = prior_over(ids), build(ids, sizes)
    assert last is None or isinstance(trie.levels[-1], last)
    rows_BM, scores_BM = constrained(model, params, trie, tokens_BS, 5, prior=prior)
    for user, probabilities_N in enumerate(dense(prior, ids)):
        expected, scores = reference_beam(
            model, params, ids, tokens_BS[user], probabilities_N, WEIGHTS[user], 5
        )
        assert ids_of(rows_BM[[user]], ids)[0] == expected
        np.testing.assert_allclose(scores_BM[user], scores, atol=2e-5)


def test_what_a_narrow_beam_leaves_out_counts_for_no_prefix():
    """As over a rebuilt index: denied items of the prior lead no beam astray."""
    model, params = tiny_model(SIZES)
    ids, tokens_BS = sorted(random_ids(SIZES, 40)), histories(model)
    prior = prior_over(ids, places=20)
    denied = [item for number, item in enumerate(ids) if number % 3]
    restriction = Restriction(denied_BDI=np.tile(np.array(denied), (3, 1, 1)))
    left = [item for item in ids if item not in denied]
    found = constrained(
        model, params, build(ids, SIZES), tokens_BS, 3, restriction=restriction, prior=prior
    )
    rebuilt = constrained(model, params, build(left, SIZES), tokens_BS, 3, prior=prior)
    assert ids_of(found[0], ids) == ids_of(rebuilt[0], left)
    np.testing.assert_allclose(found[1], rebuilt[1], atol=1e-5)


def test_first_draws_follow_the_mixture():
    """Frequencies among 8,000, within five deviations."""
    sizes, draws = (2, 3, 2), 8_000
    model, params = tiny_model(sizes)
    ids = sorted(random_ids(sizes, 7))
    tokens_S = histories(model)[0]
    prior = jax.tree.map(lambda x: np.repeat(x[:1], draws, axis=0), prior_over(ids, places=4))
    rows_BM, _ = constrained(
        model,
        params,
        build(ids, sizes),
        np.tile(tokens_S, (draws, 1)),
        1,
        normalize="valid",
        sampling=beam.Sampling(jax.random.split(jax.random.key(0), draws), np.ones(3, np.float32)),
        prior=prior,
    )
    scores_1N = valid_log_probs(model, params, ids, tokens_S)[None]
    expected_N = np.exp(
        mixed_by_hand(scores_1N, dense(prior_over(ids, places=4), ids)[:1], WEIGHTS[:1])
    )[0]
    assert expected_N.sum() == pytest.approx(1)
    deviation_N = np.sqrt(draws * expected_N * (1 - expected_N))
    counts_N = np.bincount(rows_BM[:, 0], minlength=7)
    assert (np.abs(counts_N - draws * expected_N) < 5 * deviation_N).all()


def test_recommender_mixes_for_each_history_and_compiles_nothing_for_other_values():
    """Against all of the plain recommender's scores, histories left out."""
    wide = recommender(num_beams=NUM_ITEMS)
    plain = wide.recommend(USERS, ragged(), NUM_ITEMS, exclude_history=False)
    scores_BN = np.zeros((11, NUM_ITEMS))
    np.put_along_axis(scores_BN, plain.item_numbers - 1, plain.scores, axis=1)
    random, compiled = np.random.default_rng(0), []
    for _ in range(2):
        items_BQ = np.stack([random.permutation(NUM_ITEMS + 1)[:6] for _ in range(11)])
        probabilities_BQ = random.dirichlet(np.ones(6), 11)
        weights = random.random(11)
        prior = requests_module.ItemPrior(items_BQ, probabilities_BQ, weights)
        ranked = wide.recommend(USERS, ragged(), NUM_ITEMS, prior=prior)
        prior_BN = np.zeros((11, NUM_ITEMS + 1))
        np.put_along_axis(prior_BN, items_BQ, probabilities_BQ, axis=1)
        mixed_BN = mixed_by_hand(scores_BN, prior_BN[:, 1:], weights)
        for user, history in enumerate(ragged()):
            left = [item for item in range(1, NUM_ITEMS + 1) if item not in history]
            expected = sorted(left, key=lambda item: -mixed_BN[user, item - 1])
            assert [item for item in ranked.item_numbers[user] if item] == expected
            np.testing.assert_allclose(
                ranked.scores[user, : len(left)], mixed_BN[user, np.array(expected) - 1], atol=2e-5
            )
        compiled.append(recommender_module._constrained_items._cache_size())
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize(
    ("items", "probabilities", "weight", "message"),
    [
        ([[1, 2]], [[0.5]], 0.5, r"item numbers \(1, 2\) and probabilities \(1, 1\)"),
        ([[1], [2]], [[0.5], [0.5]], 0.5, r"each of the 1 histories"),
        ([[1, NUM_ITEMS + 1]], [[0.5, 0.5]], 0.5, "items are 1 to 15"),
        ([[1.0, 2.0]], [[0.5, 0.5]], 0.5, "numbers that are no items"),
        ([[1, 2]], [[0.5, 0.6]], 0.5, "sum to at most 1"),
        ([[1, 2]], [[0.5, -0.1]], 0.5, "must be at least 0"),
        ([[1, 2]], [[0.5, np.nan]], 0.5, "must be at least 0"),
        ([[1, 2]], [[0.5, 0.5]], 1.1, "weight is 1.1; give a number from 0 to 1"),
        ([[1, 2]], [[0.5, 0.5]], [0.5, 0.5], "one for each of the 1 histories"),
    ],
)
def test_a_faulty_prior_is_refused(items, probabilities, weight, message):
    prior = requests_module.ItemPrior(np.array(items), np.array(probabilities), weight)
    with pytest.raises(InputError, match=message):
        recommender().recommend(None, [[1]], 3, prior=prior)


def test_a_free_search_takes_no_prior():
    prior = requests_module.ItemPrior(np.array([[1, 0]]), np.array([[1.0, np.nan]]), 0.5)
    with pytest.raises(InputError, match="for the constrained search alone"):
        recommender(search="free").recommend(None, [[1]], 3, prior=prior)
