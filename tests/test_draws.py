"""Items drawn without replacement, against the law of the draws and their cold limit."""

import jax
import numpy as np
import pytest
from test_beam import (
    SEARCH,
    build,
    constrained,
    histories,
    log_probs_of_all,
    random_ids,
    tiny_model,
    valid_log_probs,
)

from tiger_jax.model import beam

# As users compile it; the tests compile for speed of compilation.
OPTIMISED = jax.jit(
    beam.constrained_search,
    static_argnums=(0, 4),
    static_argnames="normalize",
    compiler_options={"xla_backend_optimization_level": 3},
)


@pytest.mark.parametrize("search", [SEARCH, OPTIMISED], ids=["as_in_tests", "optimised"])
@pytest.mark.parametrize("temperatures", [(2.0, 0.7, 1.5), (0.3, 0.3, 0.3)])
def test_drawn_items_follow_the_distribution_without_replacement(temperatures, search):
    """Frequencies of the first and of the second draw among 20,000, within five deviations."""
    sizes, draws = (2, 3, 2), 20_000
    temperatures = np.array(temperatures, np.float32)
    model, params = tiny_model(sizes)
    ids = random_ids(sizes, 7)
    tokens_S = histories(model)[0]
    sampling = beam.Sampling(jax.random.split(jax.random.key(0), draws), temperatures)
    tokens_BS = np.tile(tokens_S, (draws, 1))
    rows_BM, scores_BM = constrained(
        model, params, build(ids, sizes), tokens_BS, 7, search, sampling=sampling
    )
    assert (np.sort(rows_BM, axis=1) == np.arange(7)).all()
    log_probs_N = log_probs_of_all(
        model, params, tokens_S[None], model.vocabulary.tokens(sorted(ids))
    )[0]
    np.testing.assert_allclose(scores_BM, log_probs_N[rows_BM], atol=1e-5)

    first_N = np.exp(valid_log_probs(model, params, ids, tokens_S, temperatures))
    assert first_N.sum() == pytest.approx(1)
    odds_N = first_N / (1 - first_N)
    second_N = first_N * (odds_N.sum() - odds_N)
    for draw, expected_N in enumerate((first_N, second_N)):
        counts_N = np.bincount(rows_BM[:, draw], minlength=7)
        deviation_N = np.sqrt(draws * expected_N * (1 - expected_N))
        assert (np.abs(counts_N - draws * expected_N) < 5 * deviation_N).all()


@pytest.mark.parametrize("search", [SEARCH, OPTIMISED], ids=["as_in_tests", "optimised"])
@pytest.mark.parametrize("batch", [1, 8])
def test_cold_draws_are_the_items_from_the_likeliest_on(batch, search):
    """Two draws change places with a chance of less than exp(-gap)."""
    sizes, temperatures = (8, 8, 4), (1e-3,) * 3
    model, params = tiny_model(sizes)
    ids, tokens_S = random_ids(sizes, 200), histories(model)[0]
    sampling = beam.Sampling(jax.random.split(jax.random.key(0), batch), np.float32(temperatures))
    rows_BM, _ = constrained(
        model, params, build(ids, sizes), np.tile(tokens_S, (batch, 1)), 200, search,
        sampling=sampling,
    )  # fmt: skip
    drawn_BM = valid_log_probs(model, params, ids, tokens_S, temperatures)[rows_BM]
    likeliest_later_BM = np.maximum.accumulate(drawn_BM[:, ::-1], axis=1)[:, ::-1]
    assert (likeliest_later_BM - drawn_BM).max() < 30


def test_draws_of_a_request_depend_on_its_own_key_alone():
    sizes = (5, 4, 6)
    model, params = tiny_model(sizes)
    trie, tokens_BS = build(random_ids(sizes, 40), sizes), histories(model)
    keys = jax.random.split(jax.random.key(3), len(tokens_BS))
    sampling = beam.Sampling(keys, np.ones(3, np.float32))
    one, _ = constrained(model, params, trie, tokens_BS, 1, sampling=sampling)
    again, _ = constrained(
        model, params, trie, tokens_BS[1:], 1, sampling=sampling.replace(keys_B=keys[1:])
    )
    np.testing.assert_array_equal(one[1:], again)
