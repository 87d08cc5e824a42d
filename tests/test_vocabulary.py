"""Codes and tokens."""

import numpy as np
import pytest

from tiger_jax.vocabulary import Vocabulary, fnv1a

PAPER = Vocabulary((256, 256, 256, 256), 2000)


def test_paper_has_1024_item_tokens_2000_user_tokens_padding_and_end():
    assert PAPER.size == 3026
    assert PAPER.level_offsets.tolist() == [2, 258, 514, 770]
    assert PAPER.first_user_token == 1026


@pytest.mark.parametrize("sizes", [(256,) * 4, (4, 16, 256), (1,), (64,) * 6, (255,) * 4])
def test_every_token_has_one_meaning(sizes):
    vocabulary = Vocabulary(sizes, 7)
    tokens = [
        int(vocabulary.level_offsets[level]) + code
        for level, size in enumerate(sizes)
        for code in range(size)
    ]
    users = range(vocabulary.first_user_token, vocabulary.size)
    assert sorted([0, 1, *tokens, *users]) == list(range(vocabulary.size))


def test_tokens_and_codes_are_inverse():
    codes = np.random.default_rng(0).integers(0, 256, (5, 3, 4))
    assert (PAPER.semantic_ids(PAPER.tokens(codes)) == codes).all()
    assert PAPER.tokens([7, 1, 4, 0]).tolist() == [9, 259, 518, 770]


def test_token_table_pads_row_0():
    assert PAPER.token_table(np.array([[0, 0, 0, 0], [0, 1, 2, 3]])).tolist() == [
        [0, 0, 0, 0],
        [2, 259, 516, 773],
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)]
)
def test_fnv1a_equals_its_published_test_vectors(text, value):
    assert fnv1a(text) == value


def test_user_tokens_are_in_their_block_and_spread_over_it():
    tokens = PAPER.user_tokens([f"A{number:013X}" for number in range(20000)])
    assert tokens.min() >= PAPER.first_user_token
    assert tokens.max() < PAPER.size
    counts = np.bincount(tokens - PAPER.first_user_token, minlength=2000)
    # 10 expected in each: the chi-square statistic of 1,999 degrees of freedom, 5 deviations wide.
    assert abs(((counts - 10) ** 2 / 10).sum() - 1999) < 5 * np.sqrt(2 * 1999)


def test_users_whose_ids_are_no_unicode_have_tokens_too():
    """As Python has bytes of a command line that are not UTF-8."""
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert fnv1a(broken) != fnv1a("caf")
