"""k-means on the device, and the ID schemes that train no network: residual k-means, random.

They give codes; the table makes them distinct.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids.table import Codes


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
    return jnp.argmin(distance_NC, axis=1).astype(jnp.int32), jnp.min(distance_NC, axis=1)


def kmeans_start(points_NZ: jax.Array, num_clusters: int, key: jax.Array) -> jax.Array:
    """k-means++ (Arthur and Vassilvitskii, 2007): centroids [C, Z] to start from.

    Each next centroid is a point drawn with probability proportional to its squared distance from
    the nearest of those already chosen.
    """

    def choose(index, carry):
        centroids_CZ, distance_N = carry
        row = jax.random.categorical(jax.random.fold_in(key, index), jnp.log(distance_N))
        centroids_CZ = centroids_CZ.at[index].set(points_NZ[row])
        newest_N = squared_distances(points_NZ, points_NZ[row][None, :])[:, 0]
        return centroids_CZ, jnp.minimum(distance_N, newest_N)

    num_points, width = points_NZ.shape
    centroids_CZ = jnp.zeros((num_clusters, width), points_NZ.dtype)
    first = jax.random.randint(key, (), 0, num_points)
    centroids_CZ = centroids_CZ.at[0].set(points_NZ[first])
    distance_N = squared_distances(points_NZ, points_NZ[first][None, :])[:, 0]
    return jax.lax.fori_loop(1, num_clusters, choose, (centroids_CZ, distance_N))[0]


def lloyd_step(points_NZ: jax.Array, centroids_CZ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One iteration of Lloyd's algorithm: new centroids [C, Z], inertia of the old ones.

    A centroid that serves no point moves onto one of the points served worst.
    """
    num_clusters = centroids_CZ.shape[0]
    cluster_N, distance_N = nearest(points_NZ, centroids_CZ)
    sum_CZ = jax.ops.segment_sum(points_NZ, cluster_N, num_clusters)
    count_C = jnp.bincount(cluster_N, length=num_clusters)
    mean_CZ = sum_CZ / jnp.maximum(count_C, 1)[:, None]
    served_worst_C = jax.lax.top_k(distance_N, num_clusters)[1]
    empty_C = count_C == 0
    repaired_CZ = points_NZ[served_worst_C[jnp.cumsum(empty_C) - 1]]
    return jnp.where(empty_C[:, None], repaired_CZ, mean_CZ), distance_N.sum()


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_iterations"))
def kmeans(
    points_NZ: jax.Array, num_clusters: int, key: jax.Array, num_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Lloyd's k-means from a k-means++ start: centroids [C, Z], cluster of each point [N]."""
    centroids_CZ = jax.lax.fori_loop(
        0,
        num_iterations,
        lambda _, centroids_CZ: lloyd_step(points_NZ, centroids_CZ)[0],
        kmeans_start(points_NZ, num_clusters, key),
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


def residual(
    embeddings_NE: np.ndarray,
    seed: int,
    *,
    codebook_sizes: tuple[int, ...],
    num_iterations: int = 50,
) -> Codes:
    """ID scheme: residual k-means on the content embeddings themselves, nothing learned besides.

    Args:
      embeddings_NE: content embeddings.
      seed: of the k-means start.
      codebook_sizes: number of codes of each level.
      num_iterations: of Lloyd's algorithm.
    """
    require_items(len(embeddings_NE), codebook_sizes)
    mean_E = embeddings_NE.mean(axis=0)
    centred_NE = jnp.asarray(embeddings_NE - mean_E)
    codebooks_LCE, codes_NL = residual_kmeans(
        centred_NE, tuple(codebook_sizes), jax.random.key(seed), num_iterations
    )
    quantized_NE = sum(
        codebook_CE[codes_NL[:, level]] for level, codebook_CE in enumerate(codebooks_LCE)
    )
    parameters = {f"codebook_{i}": np.asarray(book) for i, book in enumerate(codebooks_LCE)}
    return Codes(
        np.asarray(codes_NL),
        tuple(codebook_sizes),
        explained_variance=float(explained_variance(centred_NE, quantized_NE)),
        parameters={"mean": mean_E, **parameters},
    )


def random(embeddings_NE: np.ndarray, seed: int, *, codebook_sizes: tuple[int, ...]) -> Codes:
    """ID scheme: distinct tuples drawn at random, blind to content (TIGER section 4.2).

    Args:
      embeddings_NE: content embeddings, of which only the number counts.
      seed: of the draw.
      codebook_sizes: number of codes of each part of an ID.
    """
    num_items, num_ids = len(embeddings_NE), math.prod(codebook_sizes)
    if num_items > num_ids:
        raise InputError(
            f"{num_items} items, but only {num_ids} different IDs of sizes {codebook_sizes}; "
            "give larger codebooks or more levels"
        )
    drawn_N = np.random.default_rng(seed).choice(num_ids, num_items, replace=False)
    codes_NL = np.column_stack(np.unravel_index(drawn_N, codebook_sizes))
    return Codes(codes_NL, tuple(codebook_sizes), has_collision_token=False)


def explained_variance(points_NZ: jax.Array, approximation_NZ: jax.Array) -> jax.Array:
    """1 - sum ||p - p_hat||^2 / sum ||p - mean||^2: 1 is perfect, 0 as good as the mean."""
    error = jnp.sum((points_NZ - approximation_NZ) ** 2)
    return 1 - error / jnp.sum((points_NZ - points_NZ.mean(axis=0, keepdims=True)) ** 2)


def require_items(num_items: int, codebook_sizes: tuple[int, ...]) -> None:
    """InputError where a codebook has more codes than there are items."""
    if num_items < max(codebook_sizes):
        raise InputError(
            f"{num_items} items cannot fill a codebook of {max(codebook_sizes)} codes; "
            "lower codebook_sizes"
        )
