"""The search, against scoring everything by the teacher-forced network."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel, shift_right
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.filters import Filters, Restriction
from tiger_jax.semantic_ids.levels import UnaryLevel
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import Vocabulary

VARIANTS = list(itertools.product(("full", "level"), (True, False)))


@functools.cache
def tiny_model(sizes, normalize="full", tied=True, num_user_tokens=5, num_decoder_layers=1):
    """A model of a few hundred parameters, none of them at its initial value."""
    vocabulary = Vocabulary(sizes, num_user_tokens)
    config = NetworkConfig(
        # A few rows more than the vocabulary needs, as in T5X.
        vocab_size=vocabulary.size + 2,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=num_decoder_layers,
        dropout_rate=0.1,
        logits_via_embedding=tied,
    )
    model = TigerModel(config, vocabulary, normalize)
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: random.normal(0.0, 0.7, x.shape).astype(np.float32), shapes)
    return model, params


def histories(model, batch=3, length=7):
    """Random encoder inputs; row b ends in b * 2 positions of padding."""
    random = np.random.default_rng(2)
    tokens_BS = random.integers(2, model.vocabulary.size, (batch, length), dtype=np.int32)
    for row in range(batch):
        tokens_BS[row, length - 2 * row :] = 0
    return tokens_BS


@functools.partial(jax.jit, static_argnums=0)
def token_log_probs(model, params, tokens_S, targets_XI):
    """log p of each token of every target for one user, teacher-forced: [X, I]."""
    tokens_XS = jnp.broadcast_to(tokens_S, (len(targets_XI), len(tokens_S)))
    logits_XIV = model.module.apply({"params": params}, tokens_XS, shift_right(targets_XI))
    if model.normalize == "level":
        starts_I1 = model.vocabulary.level_offsets[:, None]
        ends_I1 = starts_I1 + np.array(model.vocabulary.codebook_sizes)[:, None]
        tokens_V = np.arange(logits_XIV.shape[-1])
        is_own_IV = (starts_I1 <= tokens_V) & (tokens_V < ends_I1)
        logits_XIV = jnp.where(is_own_IV, logits_XIV, -jnp.inf)
    # Of any token, with "full" also one that cannot stand at that part of an ID.
    return jnp.take_along_axis(jax.nn.log_softmax(logits_XIV), targets_XI[..., None], axis=-1)[
        ..., 0
    ]


def log_probs_of_all(model, params, tokens_BS, targets_XI):
    """log p of every target for every user: [B, X]."""
    return np.stack(
        [token_log_probs(model, params, tokens_S, targets_XI).sum(-1) for tokens_S in tokens_BS]
    )


def build(ids, sizes):
    table_NI = np.zeros((len(ids) + 1, len(sizes)), np.int32)
    table_NI[1:] = ids
    return Trie.from_semantic_ids(table_NI, tuple(sizes))


SEARCH = jax.jit(beam.constrained_search, static_argnums=(0, 4), static_argnames="normalize")


def constrained(model, params, trie, tokens_BS, num_beams, search=SEARCH, **options):
    return jax.device_get(search(model, params, trie, tokens_BS, num_beams, **options))


def free(model, params, tokens_BS, num_beams):
    search = jax.jit(beam.free_search, static_argnums=(0, 3))
    return jax.device_get(search(model, params, tokens_BS, num_beams))


def random_ids(sizes, count, seed=0):
    everything = list(itertools.product(*map(range, sizes)))
    return [everything[i] for i in np.random.default_rng(seed).permutation(len(everything))[:count]]


def check_whole_catalogue(model, params, ids, num_beams):
    """Statement 1 of the design: all items in brute-force order, and nothing else."""
    tokens_BS = histories(model)
    rows_BM, scores_BM = constrained(
        model, params, build(ids, model.vocabulary.codebook_sizes), tokens_BS, num_beams
    )
    targets_NI = model.vocabulary.tokens(sorted(ids))
    expected_BN = log_probs_of_all(model, params, tokens_BS, targets_NI)
    order_BN = np.argsort(-expected_BN, axis=1, kind="stable")
    found = len(ids)
    np.testing.assert_array_equal(rows_BM[:, :found], order_BN)
    np.testing.assert_allclose(
        scores_BM[:, :found], np.take_along_axis(expected_BN, order_BN, 1), rtol=1e-5, atol=1e-5
    )
    assert (rows_BM[:, found:] == -1).all()
    assert (scores_BM[:, found:] == -np.inf).all()
    assert rows_BM.shape == scores_BM.shape == (len(tokens_BS), num_beams)


@pytest.mark.parametrize(("normalize", "tied"), VARIANTS)
def test_wide_beam_equals_exhaustive_search(normalize, tied):
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes, normalize, tied, num_decoder_layers=2)
    check_whole_catalogue(model, params, random_ids(sizes, 40), num_beams=64)


def test_in_bfloat16_the_scores_are_those_of_training_too():
    """Everything that is multiplied is rounded where the teacher-forced network rounds it."""
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes, num_decoder_layers=2)
    config = dataclasses.replace(model.config, dtype="bfloat16")
    model = TigerModel(config, model.vocabulary, model.normalize)
    check_whole_catalogue(model, params, random_ids(sizes, 40), num_beams=64)


CATALOGUES = {
    "one item": ([(33, 31)], (34, 32)),
    "one prefix": ([(7, code) for code in (0, 31, 32)], (8, 33)),
    "full": (list(itertools.product(range(6), repeat=2)), (6, 6)),
    "chain": ([(code,) * 2 for code in (0, 1, 31, 32)], (33, 33)),
    "count = V": ([(1, code) for code in range(40)] + [(0, 0)], (2, 40)),
    "one level": ([(code,) for code in (3, 0, 32)], (33,)),
    "five levels": (random_ids((2, 3, 2, 2, 3), 30), (2, 3, 2, 2, 3)),
}


@pytest.mark.parametrize("name", CATALOGUES)
def test_wide_beam_returns_exactly_the_catalogue(name):
    ids, sizes = CATALOGUES[name]
    model, params = tiny_model(sizes)
    check_whole_catalogue(model, params, ids, num_beams=45)


def reference_beam(model, params, ids, tokens_S, num_beams):
    """Beam search over prefixes as Python tuples: score, then beam, then code."""
    beams = [((), 0.0)]
    for level, size in enumerate(model.vocabulary.codebook_sizes):
        prefixes = {item[: level + 1] for item in ids}
        continued = [(*prefix, code) for prefix, _ in beams for code in range(size)]
        # One shape for all levels, compiled once.
        targets_XI = np.zeros((num_beams * max(model.vocabulary.codebook_sizes), len(ids[0])), int)
        targets_XI[: len(continued), : level + 1] = continued
        log_probs_XI = token_log_probs(model, params, tokens_S, model.vocabulary.tokens(targets_XI))
        candidates = [
            (beams[place // size][1] + float(log_probs_XI[place, level]), place, prefix)
            for place, prefix in enumerate(continued)
            if prefix in prefixes
        ]
        candidates.sort(key=lambda candidate: (-candidate[0], candidate[1]))
        beams = [(prefix, score) for score, _, prefix in candidates[:num_beams]]
    return beams


def skewed_ids(count):
    """IDs of three codes of 256, most of them near 0, and a collision token."""
    random = np.random.default_rng(4)
    codes = np.minimum(random.exponential(40, (count, 3)).astype(int), 255).tolist()
    seen = collections.Counter()
    ids = []
    for code in map(tuple, codes):
        ids.append((*code, seen[code]))
        seen[code] += 1
    return ids


@pytest.mark.parametrize(
    ("ids", "sizes", "num_beams"),
    [
        (random_ids((6, 5, 4), 50), (6, 5, 4), 1),
        (random_ids((6, 5, 4), 50), (6, 5, 4), 7),
        (skewed_ids(100_000), (256,) * 4, 5),
    ],
    ids=["greedy", "narrow", "100,000 items"],
)
def test_narrow_beam_equals_a_reference_in_python(ids, sizes, num_beams):
    model, params = tiny_model(sizes, tied=False)
    tokens_BS = histories(model)
    rows_BM, scores_BM = constrained(model, params, build(ids, sizes), tokens_BS, num_beams)
    ids = sorted(ids)
    for tokens_S, rows_M, scores_M in zip(tokens_BS, rows_BM, scores_BM, strict=True):
        expected = reference_beam(model, params, ids, tokens_S, num_beams)
        assert [ids[row] for row in rows_M] == [prefix for prefix, _ in expected]
        np.testing.assert_allclose(scores_M, [score for _, score in expected], atol=1e-5)


def test_equal_scores_rank_by_beam_then_by_code():
    """With a decoder that gives every token the same probability the first rows win."""
    sizes = (6, 5, 4)
    model, params = tiny_model(sizes)
    params = jax.tree.map(lambda x: x, params)
    params["decoder"]["decoder_norm"]["scale"] = np.zeros(8, np.float32)
    trie = build(random_ids(sizes, 50), sizes)
    rows_BM, scores_BM = constrained(model, params, trie, histories(model), 9)
    np.testing.assert_array_equal(rows_BM, np.tile(np.arange(9), (3, 1)))
    np.testing.assert_allclose(scores_BM, -3 * np.log(model.config.vocab_size), rtol=1e-6)


def test_scores_are_not_renormalised_over_the_catalogue():
    """An item scores the same whatever else is on sale."""
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    ids = sorted(random_ids(sizes, 40))
    tokens_BS = histories(model)
    rows_all, scores_all = constrained(model, params, build(ids, sizes), tokens_BS, 40)
    rows_few, scores_few = constrained(model, params, build(ids[:5], sizes), tokens_BS, 40)
    for user in range(len(tokens_BS)):
        everything = dict(zip(rows_all[user].tolist(), scores_all[user].tolist(), strict=True))
        for row, score in zip(rows_few[user, :5].tolist(), scores_few[user].tolist(), strict=False):
            assert score == pytest.approx(everything[row], abs=1e-5)


def test_longer_padding_changes_nothing():
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    trie = build(random_ids(sizes, 40), sizes)
    tokens_BS = histories(model)
    rows, scores = constrained(model, params, trie, tokens_BS, 10)
    padded = np.pad(tokens_BS, ((0, 0), (0, 9)))
    rows_padded, scores_padded = constrained(model, params, trie, padded, 10)
    np.testing.assert_array_equal(rows, rows_padded)
    np.testing.assert_allclose(scores, scores_padded, atol=1e-5)


def ids_of(rows_BM, ids):
    """Rows of a trie -> IDs; None for row -1."""
    ids = sorted(ids)
    return [[ids[row] if row >= 0 else None for row in rows] for rows in rows_BM.tolist()]


@pytest.mark.parametrize(
    ("num_beams", "use_filters", "use_denied"),
    [(5, True, False), (5, False, True), (5, True, True), (45, True, True)],
)
def test_restricted_search_equals_that_of_a_rebuilt_index(num_beams, use_filters, use_denied):
    """A filter and denied items of its own for each request; none of either for the first."""
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    ids = random_ids(sizes, 40)
    trie = Trie.from_semantic_ids(np.array([(0, 0, 0), *ids]), sizes, capacity=41)
    tokens_BS = histories(model)
    random = np.random.default_rng(7)
    passes = random.random((2, len(ids) + 1)) < 0.4
    denied_BDI = np.full((3, 30, 3), -1)
    denied = [[], *(sorted(random_ids(sizes, 120, seed)[:60]) for seed in (8, 9))]
    denied = [[item for item in items if item in ids][:30] for items in denied]
    for request, items in enumerate(denied):
        denied_BDI[request, : len(items)] = np.array(items).reshape(-1, 3)
    restriction = Restriction(
        Filters.build(trie, passes) if use_filters else None,
        jnp.arange(3) if use_filters else None,
        denied_BDI if use_denied else None,
    )
    found = constrained(model, params, trie, tokens_BS, num_beams, restriction=restriction)
    for request in range(3):
        left = [
            item
            for number, item in enumerate(ids, start=1)
            if not (use_filters and request and not passes[request - 1, number])
            and not (use_denied and item in denied[request])
        ]
        rebuilt = trie.updated(np.array([(0, 0, 0), *left]))
        rows, scores = constrained(model, params, rebuilt, tokens_BS, num_beams)
        assert ids_of(found[0], ids)[request] == ids_of(rows, left)[request]
        np.testing.assert_allclose(found[1][request], scores[request], atol=1e-5)


def test_spare_room_changes_nothing_and_updates_compile_nothing():
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    ids, tokens_BS = random_ids(sizes, 90), histories(model)
    search = jax.jit(lambda *arguments: beam.constrained_search(model, *arguments, num_beams=9))
    table = np.array([(0, 0, 0), *ids])
    trie = Trie.from_semantic_ids(table[:31], sizes, capacity=80)
    for num_items in (30, 70, 3):
        trie = trie.updated(table[: num_items + 1])
        rows, scores = jax.device_get(search(params, trie, tokens_BS))
        exact = build(ids[:num_items], sizes)
        rows_exact, scores_exact = constrained(model, params, exact, tokens_BS, 9)
        np.testing.assert_array_equal(rows, rows_exact)
        np.testing.assert_allclose(scores, scores_exact, atol=1e-5)
    assert search._cache_size() == 1
    trie = trie.updated(table)
    rows, _ = jax.device_get(search(params, trie, tokens_BS))
    np.testing.assert_array_equal(
        rows, constrained(model, params, build(ids, sizes), tokens_BS, 9)[0]
    )


def valid_log_probs(model, params, ids, tokens_S, temperatures=(1, 1, 1)):
    """log p of each sorted ID where each step is a softmax over the codes that may follow."""
    ids = sorted(ids)
    log_probs_NI = np.asarray(
        token_log_probs(model, params, tokens_S, model.vocabulary.tokens(np.array(ids)))
    )
    logits_NI = log_probs_NI.astype(np.float64) / np.array(temperatures)
    total_N = np.zeros(len(ids))
    for level in range(len(ids[0])):
        for row, item in enumerate(ids):
            siblings = {
                other[level]: logit
                for other, logit in zip(ids, logits_NI[:, level], strict=True)
                if other[:level] == item[:level]
            }
            total_N[row] += logits_NI[row, level] - np.logaddexp.reduce(list(siblings.values()))
    return total_N


def test_valid_normalisation_sums_to_one_over_the_catalogue():
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    ids, tokens_BS = random_ids(sizes, 40), histories(model)
    trie = build(ids, sizes)
    rows, scores = constrained(model, params, trie, tokens_BS, 64, normalize="valid")
    for tokens_S, rows_M, scores_M in zip(tokens_BS, rows[:, :40], scores[:, :40], strict=True):
        expected_N = valid_log_probs(model, params, ids, tokens_S)
        np.testing.assert_array_equal(rows_M, np.argsort(-expected_N, kind="stable"))
        np.testing.assert_allclose(scores_M, expected_N[rows_M], atol=1e-5)
        assert np.exp(scores_M).sum() == pytest.approx(1, abs=1e-5)


def test_a_level_of_single_codes_ranks_as_others_do():
    """IDs that their first two codes tell apart, against the same search over rows of bits."""
    sizes = (6, 5, 40)
    model, params = tiny_model(sizes)
    ids = [(first, second, 7 * first + second) for first in range(6) for second in range(5)]
    unary = build(ids, sizes)
    assert isinstance(unary.levels[2], UnaryLevel)
    check_whole_catalogue(model, params, ids, num_beams=45)
    roomy = Trie.from_semantic_ids(np.array([(0, 0, 0), *ids]), sizes, capacity=31)
    assert not isinstance(roomy.levels[2], UnaryLevel)
    tokens_BS = histories(model)
    expected = constrained(model, params, roomy, tokens_BS, 6)
    for found, other in zip(constrained(model, params, unary, tokens_BS, 6), expected, strict=True):
        np.testing.assert_allclose(found, other, atol=1e-5)


@pytest.mark.parametrize(("normalize", "tied"), [("full", True), ("level", False)])
def test_free_search_equals_exhaustive_search(normalize, tied):
    """Every sequence of tokens where the loss is over the vocabulary, else of each level's own."""
    sizes = (2, 1, 2)
    model, params = tiny_model(sizes, normalize, tied, num_user_tokens=0)
    tokens_BS = histories(model)
    if normalize == "full":
        choices = [range(model.config.vocab_size)] * 3
    else:
        choices = [
            range(first, first + size)
            for first, size in zip(model.vocabulary.level_offsets, sizes, strict=True)
        ]
    sequences_XI = np.array(list(itertools.product(*choices)), np.int32)
    found = len(sequences_XI)
    tokens_BMI, scores_BM = free(model, params, tokens_BS, found + 3)
    expected_BX = log_probs_of_all(model, params, tokens_BS, sequences_XI)
    for tokens_MI, scores_M, expected_X in zip(tokens_BMI, scores_BM, expected_BX, strict=True):
        place = {tuple(sequence): x for x, sequence in enumerate(sequences_XI.tolist())}
        places_M = [place[tuple(sequence)] for sequence in tokens_MI[:found].tolist()]
        assert sorted(places_M) == list(range(found))
        np.testing.assert_allclose(scores_M[:found], expected_X[places_M], rtol=1e-5, atol=1e-5)
        assert (np.diff(scores_M[:found]) <= 0).all()
    assert (tokens_BMI[:, found:] == 0).all()
    assert (scores_BM[:, found:] == -np.inf).all()


def test_free_search_ranks_the_items_as_the_constrained_one():
    sizes = (2, 1, 2)
    model, params = tiny_model(sizes, num_user_tokens=0)
    ids = [(0, 0, 1), (1, 0, 0), (1, 0, 1)]
    trie = build(ids, sizes)
    tokens_BS = histories(model)
    rows_BM, scores_BM = constrained(model, params, trie, tokens_BS, 3)
    tokens_BMI, free_scores_BM = free(model, params, tokens_BS, model.config.vocab_size**3)
    rows_free = np.asarray(trie.walk(model.vocabulary.semantic_ids(tokens_BMI))[..., -1])
    for user in range(len(tokens_BS)):
        valid = rows_free[user] >= 0
        np.testing.assert_array_equal(rows_free[user][valid], rows_BM[user])
        np.testing.assert_allclose(free_scores_BM[user][valid], scores_BM[user], atol=1e-5)
