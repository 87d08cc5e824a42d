"""Token space of the sequence model; the only place that turns codes into tokens and back.

    0 padding | 1 end of sequence | one block of tokens for each part of an ID | user tokens

The same code at two levels is two tokens.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

PAD = 0
EOS = 1
_NUM_SPECIAL = 2

FNV_OFFSET = 2166136261
FNV_PRIME = 16777619


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens of Semantic IDs and users (TIGER section 4: 256 x 4 and 2,000 of them).

    Attributes:
      codebook_sizes: number of codes of each part of an ID, the collision token included.
      num_user_tokens: size of the hashed user space; 0 where users are not told apart.
    """

    codebook_sizes: tuple[int, ...]
    num_user_tokens: int

    @property
    def id_length(self) -> int:
        """Number of tokens of one item."""
        return len(self.codebook_sizes)

    @functools.cached_property
    def level_offsets(self) -> np.ndarray:
        """Token of code 0 of each part of an ID, int32 [I]."""
        starts = np.cumsum((_NUM_SPECIAL, *self.codebook_sizes[:-1]))
        return starts.astype(np.int32)

    @property
    def first_user_token(self) -> int:
        """Token of the users whose hash is 0."""
        return _NUM_SPECIAL + sum(self.codebook_sizes)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.first_user_token + self.num_user_tokens

    def tokens(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Codes [..., I] -> tokens [..., I], int32."""
        return (np.asarray(semantic_ids) + self.level_offsets).astype(np.int32)

    def semantic_ids(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [..., I] -> codes [..., I]; out of range where a token is of another level."""
        return np.asarray(tokens) - self.level_offsets

    def token_table(self, semantic_ids_NI: np.ndarray) -> np.ndarray:
        """Semantic-ID table [N + 1, I] -> the tokens of each item; row 0 is padding."""
        tokens_NI = self.tokens(semantic_ids_NI)
        tokens_NI[0] = PAD
        return tokens_NI

    def user_tokens(self, raw_ids: Sequence[str]) -> np.ndarray:
        """Raw user ids -> hashed user tokens, int32 [B] (the Hashing Trick, TIGER section 4)."""
        hashes = np.fromiter((fnv1a(raw_id) for raw_id in raw_ids), np.int64, len(raw_ids))
        return (hashes % self.num_user_tokens + self.first_user_token).astype(np.int32)


def fnv1a(text: str) -> int:
    """FNV-1a hash, 32 bits, of the UTF-8 bytes.

    Python's own `hash` differs from run to run; this one is a few integer operations that any
    framework can repeat. Text that is no Unicode, as a command line may give it, has one too.
    """
    value = FNV_OFFSET
    for byte in text.encode("utf-8", "surrogatepass"):
        value = ((value ^ byte) * FNV_PRIME) & 0xFFFFFFFF
    return value
