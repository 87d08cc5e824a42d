"""RQ-VAE: a content embedding becomes one code a level (TIGER sections 3.1 and 4).

The network, its loss and whole epochs of training on the device; also VQ-VAE, which differs in
the quantiser alone. It does not know files of embeddings, progress bars or the collision token.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from tiger_jax.products import product
from tiger_jax.semantic_ids import clustering

# Iterations of Lloyd's algorithm that start the codebooks.
_START_ITERATIONS = 50

# Standard deviation, as a share of the largest, below which a dimension carries nothing.
_CONSTANT = 1e-4


class Mlp(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
      sizes: width of each layer's output.
      dtype: what the factors of its products are rounded to; their sums are float32.
    """

    sizes: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """Applies the layers to each row."""
        dot = None if self.dtype == "float32" else functools.partial(_product, dtype=self.dtype)
        for size in self.sizes[:-1]:
            x = nn.relu(nn.Dense(size, dot_general=dot)(x))
        return nn.Dense(self.sizes[-1], dot_general=dot)(x)


def _product(x_BX, kernel_XY, *_, dtype, **__):
    """What flax takes in place of `lax.dot_general`."""
    return product("BX,XY->BY", x_BX, kernel_XY, jnp.dtype(dtype))


class Quantized(NamedTuple):
    """What residual quantisation makes of latents; d = 0, ..., L-1 is the level.

    Attributes:
      codes_BL: c_d, the code at each level.
      residuals_LBZ: r_d, what level d was given.
      codewords_LBZ: e_{c_d}, what level d made of it.
      latent_BZ: z_hat, what all levels together made of z.
    """

    codes_BL: jax.Array
    residuals_LBZ: jax.Array
    codewords_LBZ: jax.Array
    latent_BZ: jax.Array


class Output(NamedTuple):
    """One pass of the network: z, its quantisation, and x_hat."""

    latent_BZ: jax.Array
    quantized: Quantized
    reconstruction_BE: jax.Array


def quantize(latent_BZ: jax.Array, codebooks_LCZ: tuple[jax.Array, ...]) -> Quantized:
    """Residual quantisation (TIGER section 3.1): r_0 = z, c_d = argmin_k ||r_d - e_k||,
    r_{d+1} = r_d - e_{c_d}.

    No gradient runs through the subtraction, so that a codebook learns from its own level alone.
    `codebooks_LCZ` has one array [C, Z] a level; their numbers of codes may differ.
    """
    codes, residuals, codewords = [], [], []
    residual_BZ = latent_BZ
    for codebook_CZ in codebooks_LCZ:
        code_B = clustering.nearest(residual_BZ, codebook_CZ)[0]
        codeword_BZ = codebook_CZ[code_B]
        codes.append(code_B)
        residuals.append(residual_BZ)
        codewords.append(codeword_BZ)
        residual_BZ = residual_BZ - jax.lax.stop_gradient(codeword_BZ)
    codewords_LBZ = jnp.stack(codewords)
    return Quantized(
        jnp.stack(codes, axis=-1), jnp.stack(residuals), codewords_LBZ, codewords_LBZ.sum(axis=0)
    )


def quantize_parts(latent_BZ: jax.Array, codebooks_LCZ: tuple[jax.Array, ...]) -> Quantized:
    """Product quantisation, the VQ-VAE's (TIGER appendix A): the latent is cut into L parts, each
    with a codebook of its own, so that no code depends on another.

    In what is returned a part, Z / L wide, stands in place of a residual.
    """
    parts = jnp.split(latent_BZ, len(codebooks_LCZ), axis=-1)
    codes = [
        clustering.nearest(part_BZ, codebook_CZ)[0]
        for part_BZ, codebook_CZ in zip(parts, codebooks_LCZ, strict=True)
    ]
    codewords = [
        codebook_CZ[code_B] for codebook_CZ, code_B in zip(codebooks_LCZ, codes, strict=True)
    ]
    return Quantized(
        jnp.stack(codes, axis=-1),
        jnp.stack(parts),
        jnp.stack(codewords),
        jnp.concatenate(codewords, axis=-1),
    )


class RqVae(nn.Module):
    """Encoder, residual quantiser and decoder (TIGER section 4, "RQ-VAE Implementation Details").

    Attributes:
      embed_size: E, width of the content embeddings.
      hidden_sizes: widths of the encoder's hidden layers; the decoder mirrors them.
      latent_size: Z.
      codebook_sizes: C of each level.
      in_parts: whether the latent is quantised in parts (VQ-VAE) and not by residuals.
      shared_codebook: whether all levels choose from one codebook, section 3.1's alternative.
      dtype: of the encoder's and the decoder's products; see `Mlp`. Codebooks stay in float32.
    """

    embed_size: int
    hidden_sizes: tuple[int, ...]
    latent_size: int
    codebook_sizes: tuple[int, ...]
    in_parts: bool = False
    shared_codebook: bool = False
    dtype: str = "float32"

    def setup(self):
        """Makes encoder, decoder and codebooks."""
        self.encoder = Mlp((*self.hidden_sizes, self.latent_size), self.dtype)
        self.decoder = Mlp((*reversed(self.hidden_sizes), self.embed_size), self.dtype)
        width = self.latent_size // len(self.codebook_sizes) if self.in_parts else self.latent_size
        codebooks = {
            name: self.param(name, nn.initializers.normal(), (size, width))
            for name, size in dict(
                zip(self.codebook_names, self.codebook_sizes, strict=True)
            ).items()
        }
        self.codebooks_LCZ = tuple(codebooks[name] for name in self.codebook_names)

    @property
    def codebook_names(self) -> tuple[str, ...]:
        """Name of each level's codebook among the parameters."""
        levels = range(len(self.codebook_sizes))
        return tuple("codebook" if self.shared_codebook else f"codebook_{i}" for i in levels)

    def quantize(self, latent_BZ: jax.Array) -> Quantized:
        """Codes and codewords of latents."""
        return (quantize_parts if self.in_parts else quantize)(latent_BZ, self.codebooks_LCZ)

    def encode(self, x_BE: jax.Array) -> jax.Array:
        """Latent z = E(x), [B, Z]."""
        return self.encoder(x_BE)

    def __call__(self, x_BE: jax.Array) -> Output:
        """Decodes z_hat = sum_d e_{c_d}; its gradient reaches z as if z_hat were z."""
        latent_BZ = self.encoder(x_BE)
        quantized = self.quantize(latent_BZ)
        straight_through_BZ = latent_BZ + jax.lax.stop_gradient(quantized.latent_BZ - latent_BZ)
        return Output(latent_BZ, quantized, self.decoder(straight_through_BZ))


def loss(output: Output, x_BE: jax.Array, beta: float) -> tuple[jax.Array, dict]:
    """L = ||x - x_hat||^2 + sum_d ||sg[r_d] - e_{c_d}||^2 + beta ||r_d - sg[e_{c_d}]||^2.

    TIGER section 3.1. Both terms are summed over dimensions and averaged over the batch: averaged
    over dimensions, the first falls into the solution that answers the mean embedding.

    Returns:
      The loss and its two terms.
    """
    sg = jax.lax.stop_gradient
    residuals_LBZ = output.quantized.residuals_LBZ
    codewords_LBZ = output.quantized.codewords_LBZ
    reconstruction_B = jnp.sum((x_BE - output.reconstruction_BE) ** 2, axis=-1)
    codebook_LB = jnp.sum((sg(residuals_LBZ) - codewords_LBZ) ** 2, axis=-1)
    commitment_LB = jnp.sum((residuals_LBZ - sg(codewords_LBZ)) ** 2, axis=-1)
    reconstruction = reconstruction_B.mean()
    quantization = (codebook_LB + beta * commitment_LB).sum(axis=0).mean()
    return reconstruction + quantization, {
        "reconstruction_loss": reconstruction,
        "quantization_loss": quantization,
    }


class TrainState(NamedTuple):
    """Parameters, optimizer state and the key of the shuffles to come."""

    parameters: dict
    optimizer_state: optax.OptState
    key: jax.Array


def train_step(state, x_BE, network, optimizer, beta):
    """One update on a batch: (state, losses)."""

    def batch_loss(parameters):
        return loss(network.apply({"params": parameters}, x_BE), x_BE, beta)

    (total, terms), gradients = jax.value_and_grad(batch_loss, has_aux=True)(state.parameters)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(parameters, optimizer_state, state.key), {"loss": total, **terms}


def shuffled_batches(key: jax.Array, num_items: int, batch_size: int) -> jax.Array:
    """Rows of one epoch's batches, [steps, B]; what fills no batch waits for another epoch."""
    steps = num_items // batch_size
    return jax.random.permutation(key, num_items)[: steps * batch_size].reshape(steps, batch_size)


@functools.partial(
    jax.jit,
    static_argnames=("network", "optimizer", "beta", "batch_size", "num_epochs"),
    donate_argnames="state",
)
def train_epochs(state, x_NE, *, network, optimizer, beta, batch_size, num_epochs):
    """Runs whole epochs on the device: (state, mean losses of the last epoch)."""

    def epoch(state, _):
        key, shuffle_key = jax.random.split(state.key)

        def step(state, rows_B):
            return train_step(state, x_NE[rows_B], network, optimizer, beta)

        batches = shuffled_batches(shuffle_key, x_NE.shape[0], batch_size)
        state, losses = jax.lax.scan(step, state._replace(key=key), batches)
        return state, jax.tree.map(jnp.mean, losses)

    state, losses = jax.lax.scan(epoch, state, length=num_epochs)
    return state, jax.tree.map(lambda values: values[-1], losses)


def start_codebooks(parameters: dict, x_NE: jax.Array, key: jax.Array, *, network: RqVae) -> dict:
    """Parameters with codebooks that k-means finds on the latents of `x_NE`, level after level.

    TIGER section 3.1 clusters the first training batch; `x_NE` may as well be all items. A shared
    codebook starts with an equal share for each level.
    """
    latent_NZ = network.apply({"params": parameters}, x_NE, method="encode")
    sizes = network.codebook_sizes
    if network.in_parts:
        parts = jnp.split(latent_NZ, len(sizes), axis=-1)
        codebooks_LCZ = [
            clustering.kmeans(part_NZ, size, jax.random.fold_in(key, level), _START_ITERATIONS)[0]
            for level, (part_NZ, size) in enumerate(zip(parts, sizes, strict=True))
        ]
    else:
        if network.shared_codebook:
            sizes = tuple(len(share) for share in np.array_split(np.arange(sizes[0]), len(sizes)))
        codebooks_LCZ, _ = clustering.residual_kmeans(latent_NZ, sizes, key, _START_ITERATIONS)
    if network.shared_codebook:
        return {**parameters, network.codebook_names[0]: jnp.concatenate(codebooks_LCZ)}
    return {**parameters, **dict(zip(network.codebook_names, codebooks_LCZ, strict=True))}


@functools.partial(jax.jit, static_argnames="network")
def restart_dead_codes(
    parameters: dict, x_NE: jax.Array, key: jax.Array, *, network: RqVae
) -> dict:
    """Parameters with each codeword that no item uses put onto the residual of a random item."""
    quantized = network.apply({"params": parameters}, x_NE).quantized
    codebooks = {}
    for first, name in enumerate(dict.fromkeys(network.codebook_names)):
        levels = [level for level, used in enumerate(network.codebook_names) if used == name]
        codebook_CZ = parameters[name]
        size = codebook_CZ.shape[0]
        residuals_NZ = quantized.residuals_LBZ[np.array(levels)].reshape(-1, codebook_CZ.shape[1])
        codes_N = quantized.codes_BL[:, np.array(levels)].reshape(-1)
        row_key = jax.random.fold_in(key, first)
        rows_C = jax.random.choice(row_key, residuals_NZ.shape[0], (size,), replace=False)
        dead_C = jnp.bincount(codes_N, length=size) == 0
        codebooks[name] = jnp.where(dead_C[:, None], residuals_NZ[rows_C], codebook_CZ)
    return {**parameters, **codebooks}


@functools.partial(jax.jit, static_argnames="network")
def measure(
    parameters: dict, x_NE: jax.Array, std_E: jax.Array, *, network: RqVae
) -> tuple[jax.Array, dict]:
    """Codes of all items [N, L], and how well they stand for them.

    Returns:
      The codes; explained_variance of the embeddings by x_hat, in their own units, which `std_E`
      restores; latent_explained_variance of z by z_hat; residual_norms: mean ||r_d|| that each
      level is given, and what the last one leaves.
    """
    output = network.apply({"params": parameters}, x_NE)
    quantized = output.quantized
    left_NZ = output.latent_BZ - quantized.latent_BZ
    norms_LN = jnp.linalg.norm(quantized.residuals_LBZ, axis=-1)
    left = jnp.linalg.norm(left_NZ, axis=-1).mean()
    return quantized.codes_BL, {
        "explained_variance": clustering.explained_variance(
            x_NE * std_E[None, :], output.reconstruction_BE * std_E[None, :]
        ),
        "latent_explained_variance": clustering.explained_variance(
            output.latent_BZ, quantized.latent_BZ
        ),
        "residual_norms": jnp.append(norms_LN.mean(axis=1), left),
    }


def standardize(embeddings_NE: np.ndarray) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """Embeddings with mean 0 and standard deviation 1 in every dimension, and {mean, std}.

    A dimension that is all but constant is only centred.
    """
    embeddings_NE = np.asarray(embeddings_NE, np.float32)
    mean_E, std_E = embeddings_NE.mean(axis=0), embeddings_NE.std(axis=0)
    std_E = np.where(std_E > _CONSTANT * std_E.max(), std_E, 1).astype(np.float32)
    return jnp.asarray((embeddings_NE - mean_E) / std_E), {"mean": mean_E, "std": std_E}


def flatten(
    parameters: dict, statistics: dict[str, np.ndarray], network: RqVae
) -> dict[str, np.ndarray]:
    """Parameters and statistics as named arrays, to be saved; a codebook for every level."""
    networks = {name: parameters[name] for name in ("encoder", "decoder")}
    codebooks = {
        f"codebook_{level}": parameters[name] for level, name in enumerate(network.codebook_names)
    }
    arrays = traverse_util.flatten_dict({**networks, **codebooks}, sep="/")
    return {**statistics, **{name: np.asarray(array) for name, array in arrays.items()}}
