"""k-means and the ID schemes that train nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import clustering, schemes


def clustered_points(num_clusters, points_each, width=5, spread=0.01, seed=0):
    """Points around far apart centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.permutation(np.eye(num_clusters, width) - np.eye(num_clusters, width, 1))
    of_point = rng.permutation(np.repeat(np.arange(num_clusters), points_each))
    noise = spread * rng.normal(size=(len(of_point), width))
    return jnp.asarray(centres[of_point] + noise, jnp.float32), of_point


def test_distances_and_nearest_equal_brute_force():
    rng = np.random.default_rng(0)
    points_NZ = rng.normal(size=(40, 6)).astype(np.float32)
    centroids_CZ = rng.normal(size=(7, 6)).astype(np.float32)
    expected = ((points_NZ[:, None] - centroids_CZ) ** 2).sum(axis=-1)
    np.testing.assert_allclose(
        clustering.squared_distances(points_NZ, centroids_CZ), expected, rtol=1e-5
    )
    cluster_N, distance_N = clustering.nearest(points_NZ, centroids_CZ)
    np.testing.assert_array_equal(cluster_N, expected.argmin(axis=1))
    np.testing.assert_allclose(distance_N, expected.min(axis=1), rtol=1e-5)


def test_distance_of_equal_vectors_is_never_negative():
    points_NZ = jnp.asarray(1e3 * np.random.default_rng(0).normal(size=(50, 33)), jnp.float32)
    assert (clustering.squared_distances(points_NZ, points_NZ) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_hand_made_clusters(seed):
    points_NZ, of_point = clustered_points(5, 20)
    centroids_CZ, cluster_N = clustering.kmeans(points_NZ, 5, jax.random.key(seed), 10)
    pairs = set(zip(of_point.tolist(), np.asarray(cluster_N).tolist(), strict=True))
    assert len(pairs) == 5
    for true, found in pairs:
        np.testing.assert_allclose(
            centroids_CZ[found], points_NZ[of_point == true].mean(axis=0), atol=1e-5
        )


def test_start_takes_one_point_of_each_far_cluster():
    points_NZ, of_point = clustered_points(5, 20, spread=1e-4)
    keys = jax.random.split(jax.random.key(0), 20)
    start_KCZ = jax.vmap(lambda key: clustering.kmeans_start(points_NZ, 5, key))(keys)
    for start_CZ in start_KCZ:
        rows_C, distance_C = clustering.nearest(start_CZ, points_NZ)
        assert not distance_C.any()
        assert sorted(of_point[np.asarray(rows_C)]) == [0, 1, 2, 3, 4]


def test_start_draws_by_squared_distance():
    """From 0 the points 1 and 3 are drawn with chances 1 : 9."""
    points_NZ = jnp.array([[0.0], [1.0], [3.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    start_KCZ = jax.vmap(lambda key: clustering.kmeans_start(points_NZ, 2, key))(keys)
    second = np.asarray(start_KCZ[start_KCZ[:, 0, 0] == 0][:, 1, 0])
    assert set(second) == {1.0, 3.0}
    # Four standard deviations of a share of 0.1 among some 1,333 draws.
    assert abs((second == 1).mean() - 0.1) < 0.033


@pytest.mark.parametrize("seed", range(3))
def test_inertia_never_increases(seed):
    rng = np.random.default_rng(seed)
    points_NZ = jnp.asarray(rng.normal(size=(200, 4)), jnp.float32)
    # Far from all points: most centroids are empty at first and have to be repaired.
    centroids_CZ = jnp.asarray(5 + rng.normal(size=(20, 4)), jnp.float32)
    inertias = []
    for _ in range(15):
        centroids_CZ, inertia = clustering.lloyd_step(points_NZ, centroids_CZ)
        inertias.append(float(inertia))
    assert (np.diff(inertias) <= 1e-4 * inertias[0]).all()
    assert inertias[-1] < 0.1 * inertias[0]


def test_empty_clusters_move_to_the_points_served_worst():
    points_NZ = jnp.array([[0.0], [1.0], [10.0], [30.0]])
    centroids_CZ, inertia = clustering.lloyd_step(points_NZ, jnp.array([[0.5], [-50.0], [-60.0]]))
    assert inertia == 0.25 + 0.25 + 9.5**2 + 29.5**2
    np.testing.assert_allclose(centroids_CZ, [[41 / 4], [30.0], [10.0]])


def test_no_cluster_stays_empty():
    points_NZ = jnp.asarray(np.random.default_rng(0).normal(size=(300, 3)), jnp.float32)
    _, cluster_N = clustering.kmeans(points_NZ, 64, jax.random.key(0), 20)
    assert len(np.unique(cluster_N)) == 64


def test_equal_points_give_finite_centroids():
    centroids_CZ, _ = clustering.kmeans(jnp.ones((10, 3)), 4, jax.random.key(0), 5)
    np.testing.assert_allclose(centroids_CZ, np.ones((4, 3)), rtol=1e-6)


def test_as_many_clusters_as_points_leave_no_inertia():
    points_NZ = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    centroids_CZ, cluster_N = clustering.kmeans(points_NZ, 16, jax.random.key(0), 5)
    np.testing.assert_allclose(centroids_CZ[cluster_N], points_NZ, atol=1e-6)


def test_kmeans_is_as_good_as_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster", reason="needs pip install -e .[text]")
    points_NZ = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    _, cluster_N = clustering.kmeans(points_NZ, 20, jax.random.key(0), 50)
    means_CZ = np.stack([points_NZ[np.asarray(cluster_N) == c].mean(axis=0) for c in range(20)])
    inertia = ((points_NZ - means_CZ[cluster_N]) ** 2).sum()
    reference = cluster.KMeans(20, n_init=1, random_state=0, max_iter=50).fit(points_NZ)
    assert inertia < 1.03 * reference.inertia_


@pytest.mark.parametrize("repeated", [0, 5])
def test_points_of_no_weight_change_nothing(repeated):
    points_NZ, _ = clustered_points(4, 10)
    padded_NZ = jnp.concatenate([points_NZ, points_NZ[jnp.full(24, repeated)]])
    weight_N = jnp.arange(64) < 40
    centroids_CZ, cluster_N = clustering.kmeans(
        padded_NZ, 4, jax.random.key(0), 10, weight_N.astype(jnp.float32)
    )
    expected_CZ, expected_N = clustering.kmeans(points_NZ, 4, jax.random.key(0), 10)
    order = np.argsort(centroids_CZ.sum(axis=1) + 100 * centroids_CZ[:, 0])
    expected = np.argsort(expected_CZ.sum(axis=1) + 100 * expected_CZ[:, 0])
    np.testing.assert_allclose(centroids_CZ[order], expected_CZ[expected], atol=1e-4)
    assert len(set(zip(cluster_N[:40].tolist(), expected_N.tolist(), strict=True))) == 4


def test_residual_codes_are_the_nearest_codewords_of_the_residuals():
    embeddings_NE = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    codes = schemes.residual(embeddings_NE, 0, codebook_sizes=(4, 8, 16))
    residual_NE = embeddings_NE - codes.quantizer.arrays["mean"]
    for level in range(3):
        codebook_CE = codes.quantizer.arrays[f"codebook_{level}"]
        distance_NC = ((residual_NE[:, None] - codebook_CE) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(codes.codes_NL[:, level], distance_NC.argmin(axis=1))
        residual_NE = residual_NE - codebook_CE[codes.codes_NL[:, level]]
    variance = ((embeddings_NE - embeddings_NE.mean(axis=0)) ** 2).sum()
    expected = 1 - (residual_NE**2).sum() / variance
    assert codes.explained_variance == pytest.approx(expected, rel=1e-5)


def test_each_level_explains_more():
    embeddings_NE = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    explained = [
        schemes.residual(embeddings_NE, 0, codebook_sizes=(8,) * levels).explained_variance
        for levels in (1, 2, 3, 4)
    ]
    assert explained[0] > 0
    assert (np.diff(explained) > 0.02).all()
    assert explained[-1] < 1


def test_explained_variance_of_the_mean_is_zero_and_of_the_points_one():
    points_NZ = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    mean_NZ = jnp.broadcast_to(points_NZ.mean(axis=0), points_NZ.shape)
    assert clustering.explained_variance(points_NZ, mean_NZ) == pytest.approx(0, abs=1e-6)
    assert clustering.explained_variance(points_NZ, points_NZ) == 1


def test_random_can_use_up_all_ids():
    codes = schemes.random(np.zeros((24, 1)), 0, codebook_sizes=(2, 3, 4))
    assert sorted(map(tuple, codes.codes_NL.tolist())) == list(np.ndindex(2, 3, 4))


def test_random_of_the_paper_is_uniform_at_every_level():
    codes_NL = schemes.random(np.zeros((25500, 1)), 0, codebook_sizes=(255,) * 4).codes_NL
    for code_N in codes_NL.T:
        # 100 items a code; chi-squared with 254 degrees of freedom has deviation sqrt(508).
        chi_squared = ((np.bincount(code_N, minlength=255) - 100) ** 2 / 100).sum()
        assert abs(chi_squared - 254) < 5 * np.sqrt(508)


def test_more_items_than_ids_is_one_clear_line():
    with pytest.raises(InputError, match="25 items, but only 24 different IDs"):
        schemes.random(np.zeros((25, 1)), 0, codebook_sizes=(2, 3, 4))


def test_fewer_items_than_codes_is_one_clear_line():
    with pytest.raises(InputError, match="7 items cannot fill a codebook of 8 codes"):
        schemes.residual(np.ones((7, 2), np.float32), 0, codebook_sizes=(4, 8))
