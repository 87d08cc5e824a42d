"""The semantic-ID table: what every way of making IDs ends in, and all that comes after reads.

It makes IDs distinct, looks them up both ways and tells their health. It does not make codes.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from tiger_jax import artifacts
from tiger_jax.semantic_ids.quantizer import Quantizer

MADE_BY = "python -m tiger_jax.make_ids"
_KIND = "semantic_ids"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Codes:
    """What an ID scheme makes of a catalogue.

    Attributes:
      codes_NL: code of each item at each level, item number 1 first.
      codebook_sizes: number of codes of each level.
      has_collision_token: whether items may have equal codes, which a further part tells apart.
      explained_variance: of the content embeddings, by what the codes stand for; None where they
        stand for nothing.
      quantizer: what gives new items their codes; None where codes do not come from content.
      history: health while training, oldest first.
      is_balanced: whether the last codes were shared out, so that the quantiser's differ.
    """

    codes_NL: np.ndarray
    codebook_sizes: tuple[int, ...]
    has_collision_token: bool = True
    explained_variance: float | None = None
    quantizer: Quantizer | None = None
    history: Sequence[dict] = ()
    is_balanced: bool = False

    def table(self, header: dict, collision_size: int = 256) -> "SemanticIdTable":
        """The table of these codes; InputError where too many items have equal ones."""
        sizes = self.codebook_sizes
        if self.is_balanced:
            header = {**header, "balanced": True}
        if not self.has_collision_token:
            return SemanticIdTable.from_distinct_codes(self.codes_NL, sizes, header)
        return SemanticIdTable.from_codes(self.codes_NL, sizes, header, collision_size)


@dataclasses.dataclass(frozen=True)
class SemanticIdTable:
    """One distinct Semantic ID for every item (TIGER section 3.1).

    Attributes:
      semantic_ids_NI: int32 [N + 1, I]; row 0 is padding, row n the ID of item number n.
      codebook_sizes: number of codes of each part of an ID, the collision token's included.
      header: what the table was made from: has_collision_token, scheme, seed, encoder,
        items_checksum and so on.

    Raises:
      InputError: a code is out of range, or two items have the same ID.
    """

    semantic_ids_NI: np.ndarray
    codebook_sizes: tuple[int, ...]
    header: dict

    def __post_init__(self):
        semantic_ids_NI = np.array(self.semantic_ids_NI, np.int32)
        semantic_ids_NI.setflags(write=False)
        object.__setattr__(self, "semantic_ids_NI", semantic_ids_NI)
        object.__setattr__(self, "codebook_sizes", tuple(map(int, self.codebook_sizes)))
        _require_codes_in_range(semantic_ids_NI[1:], self.codebook_sizes)
        _require_distinct(semantic_ids_NI[1:], self.codebook_sizes)

    @classmethod
    def from_codes(
        cls,
        codes_NL: np.ndarray,
        codebook_sizes: Sequence[int],
        header: dict,
        collision_size: int = 256,
    ) -> "SemanticIdTable":
        """Appends the collision token: items of equal codes count 0, 1, 2, ... in item order.

        TIGER section 3.1, "Handling Collisions": an item alone with its codes gets a 0 too.

        Args:
          codes_NL: code of each item at each level, item number 1 first.
          codebook_sizes: number of codes of each level.
          header: see the class.
          collision_size: number of values of the collision token.

        Raises:
          InputError: a code is out of range, or too many items have equal codes.
        """
        codes_NL = np.asarray(codes_NL)
        _require_codes_in_range(codes_NL, codebook_sizes)
        bucket_N = _bucket_numbers(codes_NL, codebook_sizes)
        collision_token_N = _count_within(bucket_N)
        if collision_token_N.max() >= collision_size:
            fullest = collision_token_N.argmax()
            raise artifacts.InputError(
                f"{(bucket_N == bucket_N[fullest]).sum()} items share the codes "
                f"{tuple(codes_NL[fullest].tolist())}, but the collision token tells only "
                f"{collision_size} apart; use more levels, larger codebooks, richer texts or a "
                "larger collision_size"
            )
        semantic_ids_NI = np.column_stack([codes_NL, collision_token_N])
        header = {**header, "has_collision_token": True}
        return cls(_with_padding(semantic_ids_NI), (*codebook_sizes, collision_size), header)

    @classmethod
    def from_distinct_codes(
        cls, codes_NL: np.ndarray, codebook_sizes: Sequence[int], header: dict
    ) -> "SemanticIdTable":
        """Takes codes that tell the items apart as they are, without a further part."""
        header = {**header, "has_collision_token": False}
        return cls(_with_padding(np.asarray(codes_NL)), tuple(codebook_sizes), header)

    def with_new_items(self, codes_ML: np.ndarray, header: dict) -> "SemanticIdTable":
        """The table grown by items: no old ID changes, new ones take the next free token.

        Args:
          codes_ML: codes of the new items, without the collision token.
          header: what changes in the header. The new one counts its version and lists, as
            `extends`, the checksums of the tables that it has grown out of.

        Raises:
          InputError: more items with equal codes than the collision token tells apart, or any at
            all where there is no collision token.
        """
        codes_NL = np.concatenate([self.semantic_ids_NI[1:, : self.num_levels], codes_ML])
        header = {
            **self.header,
            **header,
            "version": self.header.get("version", 1) + 1,
            "extends": [*self.header.get("extends", []), self.checksum()],
        }
        if not self.header["has_collision_token"]:
            return SemanticIdTable.from_distinct_codes(codes_NL, self.codebook_sizes, header)
        # Tokens count in item order, and the new items come last.
        *sizes, collision_size = self.codebook_sizes
        return SemanticIdTable.from_codes(codes_NL, sizes, header, collision_size)

    def continues(self, checksum: str) -> bool:
        """Whether this is the table with that checksum, or has grown out of it by new items.

        A model trained with that table may then be used with this one.
        """
        return checksum in (self.checksum(), *self.header.get("extends", ()))

    @property
    def num_items(self) -> int:
        """N, without the padding row."""
        return len(self.semantic_ids_NI) - 1

    @property
    def id_length(self) -> int:
        """I, number of parts of an ID."""
        return len(self.codebook_sizes)

    @property
    def num_levels(self) -> int:
        """L, number of parts of an ID without the collision token."""
        return self.id_length - bool(self.header["has_collision_token"])

    def item_numbers(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Semantic IDs [..., I] -> item numbers int32 [...], 0 where no item has that ID."""
        semantic_ids = np.asarray(semantic_ids)
        prefix = np.zeros(semantic_ids.shape[:-1], np.int64)
        known = np.ones(prefix.shape, bool)
        for part, (size, keys) in enumerate(zip(self.codebook_sizes, self._keys, strict=True)):
            code = semantic_ids[..., part]
            key = prefix * size + code
            prefix = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            known &= (code >= 0) & (code < size) & (keys[prefix] == key)
        return np.where(known, self._item_of_prefix[prefix], 0)

    def health(self) -> dict:
        """`codes_health` of the codes before the collision token."""
        levels = self.num_levels
        return codes_health(self.semantic_ids_NI[1:, :levels], self.codebook_sizes[:levels])

    def checksum(self) -> str:
        """Changes with any ID and any codebook size; not with the header."""
        return artifacts.checksum(self.semantic_ids_NI, np.array(self.codebook_sizes, np.int64))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the table with its header and checksum."""
        header = {
            **self.header,
            "format": _FORMAT,
            "codebook_sizes": self.codebook_sizes,
            "checksum": self.checksum(),
        }
        artifacts.save_arrays(path, _KIND, header, semantic_ids=self.semantic_ids_NI)

    @classmethod
    def load(cls, path: str | os.PathLike, items_checksum: str | None = None) -> "SemanticIdTable":
        """Reads a saved table.

        Args:
          path: the file.
          items_checksum: of the items it is to be used with; not compared where None.

        Raises:
          InputError: missing, damaged, of another format, or made for other items.
        """
        header, arrays = artifacts.load_arrays(path, _KIND, MADE_BY)
        if header.get("format") != _FORMAT:
            raise artifacts.InputError(
                f"{path}: written by another version of tiger_jax; make it again with {MADE_BY}"
            )
        if items_checksum is not None and header.get("items_checksum") != items_checksum:
            raise artifacts.InputError(
                f"{path}: made for other items than sequences.npz; make it again with {MADE_BY} "
                "(with --add where items only joined)"
            )
        del header["kind"], header["format"]
        with artifacts.refusing_damage(path, _KIND, MADE_BY):
            checksum, sizes = header.pop("checksum"), header.pop("codebook_sizes")
            if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
                raise ValueError("sizes that no codebook has")
            header["has_collision_token"] = bool(header["has_collision_token"])
            table = cls(arrays["semantic_ids"], sizes, header)
        if table.checksum() != checksum:
            raise artifacts.InputError(f"{path}: damaged; make it again with {MADE_BY}")
        return table

    @functools.cached_property
    def _keys(self) -> list[np.ndarray]:
        """Ascending keys of the known prefixes of each length; see `_number_prefixes`."""
        prefixes = _number_prefixes(self.semantic_ids_NI[1:], self.codebook_sizes)
        return [keys for keys, _ in prefixes]

    @functools.cached_property
    def _item_of_prefix(self) -> np.ndarray:
        """Item number of each whole ID, int32 [N], in the order of the last of `_keys`."""
        bucket_N = _bucket_numbers(self.semantic_ids_NI[1:], self.codebook_sizes)
        return (np.argsort(bucket_N) + 1).astype(np.int32)


def codes_used(codes_NL: np.ndarray) -> list[int]:
    """Number of each level's codes that some item has."""
    return [len(np.unique(code_N)) for code_N in codes_NL.T]


def codes_health(codes_NL: np.ndarray, codebook_sizes: Sequence[int]) -> dict:
    """Use of the codebooks, and collisions of codes.

    Returns:
      codebook_usage and codes_used: share and number of each level's codes that some item has;
      unique: number of different tuples of codes; collisions: number of items whose codes an
      earlier item already has; largest_bucket: most items with equal codes.
    """
    used = codes_used(codes_NL)
    items_in_bucket = np.bincount(_bucket_numbers(codes_NL, codebook_sizes))
    return {
        "codebook_usage": [
            number / size for number, size in zip(used, codebook_sizes, strict=True)
        ],
        "codes_used": used,
        "unique": len(items_in_bucket),
        "collisions": len(codes_NL) - len(items_in_bucket),
        "largest_bucket": int(items_in_bucket.max()),
    }


def _number_prefixes(
    codes_NL: np.ndarray, codebook_sizes: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers the different prefixes of each length in lexicographic order.

    A prefix's key is (number of the prefix one shorter) * codebook size + last code. It stays
    below N * codebook size at any length, where a key made of all codes would overflow.

    Yields:
      For each length: keys of the different prefixes, ascending; number of each row's prefix [N].
    """
    prefix_N = np.zeros(len(codes_NL), np.int64)
    for size, code_N in zip(codebook_sizes, codes_NL.T, strict=True):
        keys, prefix_N = np.unique(prefix_N * size + code_N, return_inverse=True)
        yield keys, prefix_N


def _bucket_numbers(codes_NL: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """Rows of equal codes get equal numbers from 0 on, in lexicographic order, [N]."""
    *_, (_, bucket_N) = _number_prefixes(codes_NL, codebook_sizes)
    return bucket_N


def _count_within(bucket_N: np.ndarray) -> np.ndarray:
    """How many earlier rows have each row's number, [N]."""
    order_N = np.argsort(bucket_N, kind="stable")
    sorted_N = bucket_N[order_N]
    count_N = np.empty_like(order_N)
    count_N[order_N] = np.arange(len(order_N)) - np.searchsorted(sorted_N, sorted_N)
    return count_N


def _with_padding(semantic_ids_NI: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(semantic_ids_NI[:1]), semantic_ids_NI])


def _require_codes_in_range(codes_NL: np.ndarray, codebook_sizes: Sequence[int]) -> None:
    if codes_NL.ndim != 2 or not len(codes_NL) or codes_NL.shape[1] != len(codebook_sizes):
        raise artifacts.InputError(
            f"codes of shape {codes_NL.shape} do not fit {len(codebook_sizes)} codebooks; "
            "give a row an item and a column a codebook"
        )
    wrong_NL = (codes_NL < 0) | (codes_NL >= np.array(codebook_sizes))
    if wrong_NL.any():
        row, level = np.argwhere(wrong_NL)[0]
        raise artifacts.InputError(
            f"item number {row + 1}: code {codes_NL[row, level]} at level {level} is outside its "
            f"codebook of {codebook_sizes[level]}; make the codes again"
        )


def _require_distinct(semantic_ids_NI: np.ndarray, codebook_sizes: Sequence[int]) -> None:
    repeats_N = _count_within(_bucket_numbers(semantic_ids_NI, codebook_sizes))
    if repeats_N.any():
        row = repeats_N.argmax()
        earlier = np.flatnonzero((semantic_ids_NI == semantic_ids_NI[row]).all(axis=1))[0]
        raise artifacts.InputError(
            f"items number {earlier + 1} and {row + 1} have the same ID "
            f"{tuple(semantic_ids_NI[row].tolist())}; add a collision token"
        )
