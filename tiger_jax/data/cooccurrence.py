"""Content embeddings without content: items that are bought together come to lie together.

For catalogues without texts. It sees training sequences alone, never a target of an evaluation.
"""

from collections.abc import Sequence

import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.data.content import in_random_rotation

COOCCURRENCE = "cooccurrence"

# Items further apart in a sequence than this say little of each other.
_WINDOW = 10


def encode_cooccurrence(
    training_sequences: Sequence[np.ndarray], num_items: int, width: int, seed: int
) -> np.ndarray:
    """Truncated SVD of the items' positive pointwise mutual information, float32 [N, E].

    n_ij sums 1 / distance over all pairs of places of i and j in a sequence, at most 10 apart;
    M_ij = max(0, log(n_ij n / (n_i n_j))) = U S V^T; the embeddings are U S^(1/2), which weighs
    strong and weak directions as word embeddings do (Levy et al. 2015). Rows have length 1, in a
    random rotation, as those of TF-IDF. Items that are alone in all their sequences point where
    chance has it: nothing is known of them, and equal embeddings would share one ID.

    Args:
      training_sequences: item numbers of each user, without validation and test items.
      num_items: N.
      width: E, or N where that is less.
      seed: of the randomised SVD, of the rotation and of what chance has.

    Raises:
      InputError: no two items are ever in one sequence.
    """
    import scipy.sparse
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import randomized_svd

    counts_NN = _pair_counts(training_sequences, num_items)
    if not counts_NN.nnz:
        raise InputError(
            f"encoder {COOCCURRENCE}: no two items are in one training sequence (a user's items "
            "without the last two); use item texts, or data with longer histories"
        )
    total_N = np.asarray(counts_NN.sum(axis=1)).ravel()
    pairs = counts_NN.tocoo()
    information = np.log(pairs.data * total_N.sum() / (total_N[pairs.row] * total_N[pairs.col]))
    positive_NN = scipy.sparse.csr_array(
        (np.maximum(information, 0), (pairs.row, pairs.col)), shape=counts_NN.shape
    )
    u_NE, s_E, _ = randomized_svd(positive_NN, min(width, num_items), n_iter=4, random_state=seed)
    embeddings_NE = u_NE * np.sqrt(s_E)
    alone_N = total_N == 0
    chance_NE = np.random.default_rng(seed).normal(size=embeddings_NE.shape)
    embeddings_NE[alone_N] = chance_NE[alone_N]
    return in_random_rotation(normalize(embeddings_NE), seed)


def _pair_counts(training_sequences: Sequence[np.ndarray], num_items: int):
    """n_ij of `encode_cooccurrence`, symmetric, diagonal 0, [N, N]; row i is item number i + 1."""
    import scipy.sparse

    items = np.concatenate(training_sequences) - 1
    users = np.repeat(np.arange(len(training_sequences)), [len(row) for row in training_sequences])
    shape = (num_items, num_items)
    counts_NN = scipy.sparse.csr_array(shape)
    for distance in range(1, _WINDOW + 1):
        first, second = items[:-distance], items[distance:]
        pair = (users[:-distance] == users[distance:]) & (first != second)
        weights = np.full(pair.sum(), 1 / distance)
        counts_NN += scipy.sparse.coo_array((weights, (first[pair], second[pair])), shape).tocsr()
    return counts_NN + counts_NN.T
