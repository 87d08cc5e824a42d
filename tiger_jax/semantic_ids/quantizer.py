"""What a trained ID scheme leaves behind: frozen arrays that give any item its codes.

It works in blocks, so that catalogues larger than memory can be read from a file. It trains
nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import clustering, rqvae

FILE = "quantizer.npz"
_MADE_BY = "python -m tiger_jax.make_ids"
_KIND = "quantizer"

# Items given codes in one call. A block is always filled up to this size: one shape is compiled,
# and an item's codes do not depend on how a catalogue is cut.
BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """Content embeddings -> codes, by arrays that never change again.

    Attributes:
      kind: how the arrays are used: "residual" (RQ-VAE, residual k-means), "parts" (VQ-VAE),
        "tree" (hierarchical k-means) or "hyperplanes" (LSH).
      arrays: codebooks and, before them, the encoder and what standardises its input.
    """

    kind: str
    arrays: dict[str, np.ndarray]

    def codes(self, embeddings_NE: np.ndarray) -> np.ndarray:
        """Codes of items, int32 [N, L].

        Args:
          embeddings_NE: content embeddings of any float type, in memory or a map of a file.

        Raises:
          InputError: not finite, or of another width than those trained on.
        """
        return np.concatenate(list(self.blocks(embeddings_NE)))

    def blocks(self, embeddings_NE: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of `codes` in order, at most `BLOCK` at a time."""
        return self._blocks(_CODES[self.kind], embeddings_NE)

    def last_residuals(self, embeddings_NE: np.ndarray) -> np.ndarray:
        """What the last level of a residual cascade is given of each item, [N, Z]."""
        return np.concatenate(list(self._blocks(_last_residuals, embeddings_NE)))

    def reconstruction(self, codes_NL: np.ndarray) -> np.ndarray:
        """The content embeddings that codes of a residual cascade stand for, [N, E]."""
        arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        blocks = range(0, len(codes_NL), BLOCK)
        return np.concatenate(
            [np.asarray(_reconstruction(arrays, codes_NL[at : at + BLOCK])) for at in blocks]
        )

    def _blocks(self, function: Callable, embeddings_NE: np.ndarray) -> Iterator[np.ndarray]:
        arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        for first in range(0, len(embeddings_NE), BLOCK):
            block_BE = np.asarray(embeddings_NE[first : first + BLOCK], np.float32)
            self.require_fits(block_BE, first)
            padding = ((0, BLOCK - len(block_BE)), (0, 0))
            made = function(arrays, np.pad(block_BE, padding))
            yield np.asarray(made)[: len(block_BE)]

    def checksum(self) -> str:
        """Changes with any of the arrays."""
        return artifacts.checksum(*self.arrays.values())

    def save(self, path: str | os.PathLike, header: dict) -> None:
        """Writes the arrays with a header of what they were made from."""
        artifacts.save_arrays(path, _KIND, {**header, "quantizer": self.kind}, **self.arrays)

    @classmethod
    def load(cls, path: str | os.PathLike, parameters_checksum: str | None = None) -> "Quantizer":
        """Reads a saved quantiser.

        Raises:
          InputError: missing, damaged, or not the one with `parameters_checksum`, which a table
            that it made has in its header.
        """
        header, arrays = artifacts.load_arrays(path, _KIND, _MADE_BY)
        if header.get("quantizer") not in list(_CODES):
            raise InputError(f"{path}: a quantiser of no known kind; make it again with {_MADE_BY}")
        quantizer = cls(header["quantizer"], arrays)
        if parameters_checksum not in (None, quantizer.checksum()):
            raise InputError(
                f"{path}: not the quantiser that made the table beside it; make both again with "
                f"{_MADE_BY}"
            )
        return quantizer

    def require_fits(self, block_BE: np.ndarray, first: int = 0) -> None:
        """InputError unless embeddings, rows from `first` on, are finite and of the right width."""
        width = self.arrays["hyperplanes" if self.kind == "hyperplanes" else "mean"].shape[-1]
        if block_BE.shape[1:] != (width,):
            raise InputError(
                f"content embeddings are {block_BE.shape[-1]} wide, but those that the codes were "
                f"made from {width}: another encoder; encode the items with the same one"
            )
        finite_B = np.isfinite(block_BE).all(axis=1)
        if not finite_B.all():
            raise InputError(
                f"the content embedding in row {first + finite_B.argmin()} (counted from 0) is not "
                "finite; mend the item's text or use another encoder"
            )


def latents(arrays: dict[str, jax.Array], embeddings_BE: jax.Array) -> jax.Array:
    """What the codebooks quantise, [B, Z]: encoded, or only centred where there is no encoder."""
    x_BE = embeddings_BE - arrays["mean"][None, :]
    if "std" in arrays:
        x_BE = x_BE / arrays["std"][None, :]
    return _through(arrays, "encoder", x_BE)


def _through(arrays: dict[str, jax.Array], name: str, x_BX: jax.Array) -> jax.Array:
    """What the encoder or the decoder makes of its input; that itself where there is none."""
    network = {
        layer.removeprefix(f"{name}/"): array
        for layer, array in arrays.items()
        if layer.startswith(f"{name}/")
    }
    if not network:
        return x_BX
    layers = traverse_util.unflatten_dict(network, sep="/")
    sizes = tuple(len(layers[f"Dense_{i}"]["bias"]) for i in range(len(layers)))
    return rqvae.Mlp(sizes).apply({"params": layers}, x_BX)


def _codebooks(arrays: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """The codebook of each level."""
    count = sum(name.startswith("codebook_") for name in arrays)
    return tuple(arrays[f"codebook_{level}"] for level in range(count))


@jax.jit
def _residual_codes(arrays, embeddings_BE):
    return rqvae.quantize(latents(arrays, embeddings_BE), _codebooks(arrays)).codes_BL


@jax.jit
def _last_residuals(arrays, embeddings_BE):
    return rqvae.quantize(latents(arrays, embeddings_BE), _codebooks(arrays)).residuals_LBZ[-1]


@jax.jit
def _reconstruction(arrays, codes_BL):
    """Sum of the codewords, decoded, in the embeddings' own units."""
    latent_BZ = sum(book_CZ[codes_BL[:, i]] for i, book_CZ in enumerate(_codebooks(arrays)))
    x_BE = _through(arrays, "decoder", latent_BZ)
    return x_BE * arrays.get("std", jnp.ones(1))[None, :] + arrays["mean"][None, :]


@jax.jit
def _part_codes(arrays, embeddings_BE):
    return rqvae.quantize_parts(latents(arrays, embeddings_BE), _codebooks(arrays)).codes_BL


@jax.jit
def _tree_codes(arrays, embeddings_BE):
    """Down the tree of `clustering.hierarchical_kmeans`, to the nearest of each node's own."""
    x_BE = latents(arrays, embeddings_BE)
    node_B = jnp.zeros(x_BE.shape[0], jnp.int32)
    codes = []
    for centroids_PCE in _codebooks(arrays):

        def nearest_child(item, centroids_PCE=centroids_PCE):
            x_E, node = item
            return clustering.nearest(x_E[None, :], centroids_PCE[node])[0][0]

        code_B = jax.lax.map(nearest_child, (x_BE, node_B), batch_size=64)
        codes.append(code_B)
        node_B = node_B * centroids_PCE.shape[1] + code_B
    return jnp.stack(codes, axis=-1)


@jax.jit
def _hyperplane_codes(arrays, embeddings_BE):
    """c = sum_i 2^(i-1) [w_i . x > 0] (TIGER section 4.2), a set of hyperplanes a level."""
    side_BLH = (
        jnp.einsum(
            "BE,LHE->BLH",
            embeddings_BE,
            arrays["hyperplanes"],
            precision=jax.lax.Precision.HIGHEST,
        )
        > 0
    )
    weights_H = 2 ** jnp.arange(side_BLH.shape[-1])
    return (side_BLH * weights_H[None, None, :]).sum(axis=-1).astype(jnp.int32)


_CODES = {
    "residual": _residual_codes,
    "parts": _part_codes,
    "tree": _tree_codes,
    "hyperplanes": _hyperplane_codes,
}
