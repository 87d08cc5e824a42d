"""k-means on the device: alone, level after level on residuals, and cluster within cluster.

It knows no ID schemes; `schemes` makes them of it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.artifacts import InputError


def squared_distances(points_NZ: jax.Array, centroids_CZ: jax.Array) -> jax.Array:
    """||p - c||^2 of every point to every centroid, [N, C]."""
    dot_NC = jnp.einsum("NZ,CZ->NC", points_NZ, centroids_CZ, precision=jax.lax.Precision.HIGHEST)
    point_N1 = jnp.sum(points_NZ**2, axis=1, keepdims=True)
    centroid_1C = jnp.sum(centroids_CZ**2, axis=1)[None, :]
    # Rounding can take the distance of equal vectors below zero.
    return jnp.maximum(point_N1 - 2 * dot_NC + centroid_1C, 0)


def nearest(points_NZ: jax.Array, centroids_CZ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nearest centroid of each point and its squared distance: int32 [N], float [N]."""
    distance_NC = squared_distances(points_NZ, centroids_CZ)
    shortest_N1 = jnp.min(distance_NC, axis=1, keepdims=True)
    # The first of the shortest, as argmin; but argmin is not vectorised on a CPU.
    code_NC = jax.lax.broadcasted_iota(jnp.int32, distance_NC.shape, 1)
    nearest_N = jnp.min(jnp.where(distance_NC == shortest_N1, code_NC, len(centroids_CZ)), axis=1)
    return nearest_N, shortest_N1[:, 0]


def kmeans_start(
    points_NZ: jax.Array, num_clusters: int, key: jax.Array, weight_N: jax.Array | None = None
) -> jax.Array:
    """k-means++ (Arthur and Vassilvitskii, 2007): centroids [C, Z] to start from.

    Each next centroid is a point drawn with probability proportional to its weight times its
    squared distance from the nearest of those already chosen.
    """
    num_points, width = points_NZ.shape
    weight_N = jnp.ones(num_points) if weight_N is None else weight_N

    def choose(index, carry):
        centroids_CZ, distance_N = carry
        log_chance_N = jnp.log(weight_N * distance_N)
        row = jax.random.categorical(jax.random.fold_in(key, index), log_chance_N)
        centroids_CZ = centroids_CZ.at[index].set(points_NZ[row])
        newest_N = squared_distances(points_NZ, points_NZ[row][None, :])[:, 0]
        return centroids_CZ, jnp.minimum(distance_N, newest_N)

    centroids_CZ = jnp.zeros((num_clusters, width), points_NZ.dtype)
    # Points of weight 0 stand behind the others.
    first = jax.random.randint(key, (), 0, jnp.count_nonzero(weight_N))
    centroids_CZ = centroids_CZ.at[0].set(points_NZ[first])
    distance_N = squared_distances(points_NZ, points_NZ[first][None, :])[:, 0]
    return jax.lax.fori_loop(1, num_clusters, choose, (centroids_CZ, distance_N))[0]


def lloyd_step(
    points_NZ: jax.Array, centroids_CZ: jax.Array, weight_N: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """One iteration of Lloyd's algorithm: new centroids [C, Z], inertia of the old ones.

    A centroid that serves no point moves onto one of the points served worst.
    """
    num_clusters = centroids_CZ.shape[0]
    weight_N = jnp.ones(points_NZ.shape[0]) if weight_N is None else weight_N
    cluster_N, distance_N = nearest(points_NZ, centroids_CZ)
    distance_N = distance_N * weight_N
    sum_CZ = jax.ops.segment_sum(points_NZ * weight_N[:, None], cluster_N, num_clusters)
    count_C = jax.ops.segment_sum(weight_N, cluster_N, num_clusters)
    mean_CZ = sum_CZ / jnp.maximum(count_C, 1)[:, None]
    served_worst_C = jax.lax.top_k(distance_N, num_clusters)[1]
    empty_C = count_C == 0
    repaired_CZ = points_NZ[served_worst_C[jnp.cumsum(empty_C) - 1]]
    return jnp.where(empty_C[:, None], repaired_CZ, mean_CZ), distance_N.sum()


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_iterations"))
def kmeans(
    points_NZ: jax.Array,
    num_clusters: int,
    key: jax.Array,
    num_iterations: int,
    weight_N: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Lloyd's k-means from a k-means++ start: centroids [C, Z], cluster of each point [N].

    `weight_N` is 1 for points that count and, behind them, 0 for those that fill up the shape.
    """
    centroids_CZ = jax.lax.fori_loop(
        0,
        num_iterations,
        lambda _, centroids_CZ: lloyd_step(points_NZ, centroids_CZ, weight_N)[0],
        kmeans_start(points_NZ, num_clusters, key, weight_N),
    )
    return centroids_CZ, nearest(points_NZ, centroids_CZ)[0]


def residual_kmeans(
    points_NZ: jax.Array, codebook_sizes: tuple[int, ...], key: jax.Array, num_iterations: int
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """k-means level after level, each on what the levels above leave (TIGER section 3.1).

    Returns:
      A codebook [C, Z] a level, and the codes [N, L].
    """
    residual_NZ = points_NZ
    codebooks, codes = [], []
    for level, size in enumerate(codebook_sizes):
        level_key = jax.random.fold_in(key, level)
        codebook_CZ, code_N = kmeans(residual_NZ, size, level_key, num_iterations)
        residual_NZ = residual_NZ - codebook_CZ[code_N]
        codebooks.append(codebook_CZ)
        codes.append(code_N)
    return tuple(codebooks), jnp.stack(codes, axis=1)


def hierarchical_kmeans(
    points_NZ: np.ndarray, codebook_sizes: tuple[int, ...], key: jax.Array, num_iterations: int
) -> tuple[np.ndarray, ...]:
    """k-means within every cluster of the level above (TIGER section 3.1, after DSI).

    A cluster of no more points than codes gives each different point its own.

    Returns:
      For each level the centroids of every node, [prod of the sizes above, C, Z]: node
      (c_0, c_1) of the third level is number c_0 * size_1 + c_1.
    """
    node_N = np.zeros(len(points_NZ), np.int64)
    levels = []
    for level, size in enumerate(codebook_sizes):
        num_nodes = math.prod(codebook_sizes[:level])
        centroids_PCZ = np.zeros((num_nodes, size, points_NZ.shape[1]), np.float32)
        child_N = np.zeros_like(node_N)
        for node in np.unique(node_N):
            rows = np.flatnonzero(node_N == node)
            # Few shapes are compiled: points are repeated up to a power of two, with weight 0.
            capacity = max(size, 1 << (len(rows) - 1).bit_length())
            place = np.arange(capacity)
            centroids_CZ, cluster = kmeans(
                points_NZ[rows[place % len(rows)]],
                size,
                jax.random.fold_in(jax.random.fold_in(key, level), node),
                num_iterations,
                jnp.asarray(place < len(rows), jnp.float32),
            )
            centroids_PCZ[node] = centroids_CZ
            child_N[rows] = np.asarray(cluster)[: len(rows)]
        levels.append(centroids_PCZ)
        node_N = node_N * size + child_N
    return tuple(levels)


def explained_variance(points_NZ: jax.Array, approximation_NZ: jax.Array) -> jax.Array:
    """1 - sum ||p - p_hat||^2 / sum ||p - mean||^2: 1 is perfect, 0 as good as the mean."""
    error = jnp.sum((points_NZ - approximation_NZ) ** 2)
    return 1 - error / jnp.sum((points_NZ - points_NZ.mean(axis=0, keepdims=True)) ** 2)


def require_items(num_items: int, codebook_sizes: tuple[int, ...]) -> None:
    """InputError where a codebook has more codes than there are items."""
    if num_items < max(codebook_sizes):
        raise InputError(
            f"{num_items} items cannot fill a codebook of {max(codebook_sizes)} codes; "
            "lower codebook_sizes (--gin.CODEBOOK_SIZES)"
        )
