"""What is asked of a recommender for many users at once, checked and cut into batches; an answer.

It searches nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.metrics import flat_histories
from tiger_jax.model.beam import Sampling
from tiger_jax.model.prior import Prior

# Deny lists that a search is compiled for are so long, or eight times, 64 times, ... as long.
_SHORTEST_DENIED = 32
_LARGEST_SEED = 2**31 - 1

# Of temperatures: log p divided by less leaves float32 at last.
_COLDEST = 1e-6

# Of a sum of probabilities in float32.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations in raw ids.

    Attributes:
      item_ids: raw ids, best first; fewer than asked for where the catalogue has no more.
      scores: log p of each, nats; of a fusion, numbers that only order this list.
      unknown: ids of the history that are no items, as given; they were skipped.
      num_items: of the catalogue that was searched.
    """

    item_ids: list[str]
    scores: list[float]
    unknown: list[str]
    num_items: int


@dataclasses.dataclass(frozen=True)
class ItemPrior:
    """What else is believed of the next item of each of B users, beside a model: p_prior(item).

    Any recommender that scores by probability gives one: its `item_numbers` and `scores`.

    Attributes:
      item_numbers_BQ: integers, in any order; 0 in unused places. Q is a shape that a search is
        compiled for.
      probabilities_BQ: of each, at least 0; other items have none. What they lack of a sum of one,
        nobody gets.
      weight: between 0, the model alone, and 1, the prior alone; one number, or one for each user.
    """

    item_numbers_BQ: np.ndarray
    probabilities_BQ: np.ndarray
    weight: float | np.ndarray

    def checked(self, num_users: int, num_items: int) -> "ItemPrior":
        """The same as arrays, with a weight for each user and 0 in unused places.

        Raises:
          InputError: shapes, item numbers, probabilities or weights do not fit.
        """
        items_BQ = np.asarray(self.item_numbers_BQ)
        values_BQ = np.asarray(self.probabilities_BQ, np.float32)
        weights = np.asarray(self.weight, np.float32)
        if items_BQ.ndim != 2 or len(items_BQ) != num_users or values_BQ.shape != items_BQ.shape:
            raise InputError(
                f"the prior has item numbers {items_BQ.shape} and probabilities {values_BQ.shape};"
                f" give both for each of the {num_users} histories, [{num_users}, Q]"
            )
        is_item = items_BQ.dtype.kind in "iu" and ((items_BQ >= 0) & (items_BQ <= num_items)).all()
        if not is_item:
            raise InputError(
                f"the prior holds item numbers that are no items; items are 1 to {num_items},"
                " and 0 stands in unused places"
            )
        values_BQ = np.where(items_BQ > 0, values_BQ, 0)
        is_fit = np.isfinite(values_BQ).all() and (values_BQ >= 0).all()
        if not is_fit or values_BQ.sum(axis=1).max(initial=0) > 1 + _ROUNDING:
            raise InputError(
                "the prior's probabilities must be at least 0, and sum to at most 1 for each user;"
                " scores of another kind have to be turned into probabilities first"
            )
        if weights.shape not in ((), (num_users,)) or not ((weights >= 0) & (weights <= 1)).all():
            raise InputError(
                f"the prior's weight is {self.weight}; give a number from 0 to 1, or one for each"
                f" of the {num_users} histories"
            )
        return ItemPrior(
            items_BQ.astype(np.int32), values_BQ, np.broadcast_to(weights, (num_users,))
        )

    def rows(self, rows: np.ndarray) -> "ItemPrior":
        """Those of some users, of a checked one."""
        return ItemPrior(self.item_numbers_BQ[rows], self.probabilities_BQ[rows], self.weight[rows])

    def by_ids(self, semantic_ids_NI: np.ndarray) -> Prior:
        """What a search wants of a checked one."""
        ids_BQI = semantic_ids_NI[self.item_numbers_BQ]
        ids_BQI = np.where(self.item_numbers_BQ[..., None] > 0, ids_BQI, -1)
        return Prior(ids_BQI, self.probabilities_BQ, self.weight)


@dataclasses.dataclass(frozen=True)
class Requests:
    """A history, and what else matters, of each of B users.

    Attributes:
      users: raw ids; None, for all or for one, leaves the user token out.
      histories: item numbers, oldest first, of any lengths.
      filter_B: int32; number of the filter of each, 0 for none.
      keys_B: random keys, where items are drawn.
      temperatures_I: of the draws, float32; None where the best items are taken.
      denied_BD: int32; the trie's rows of items that a user may not get, ascending, -1 behind the
        last; None where all may be got.
      prior: a checked one; None for the model alone.
    """

    users: Sequence[str | None] | None
    histories: Sequence[Sequence[int]]
    filter_B: np.ndarray
    keys_B: jax.Array | None = None
    temperatures_I: np.ndarray | None = None
    denied_BD: np.ndarray | None = None
    prior: ItemPrior | None = None

    @classmethod
    def check(
        cls,
        users: Sequence[str | None] | None,
        histories: Sequence[Sequence[int]],
        num_items: int,
        filter: str | Sequence[str | None] | None,
        filter_numbers: Mapping[str, int],
    ) -> "Requests":
        """Requests that take the best items.

        Raises:
          InputError: a number in a history is no item, users, histories or filters differ in
            number, or a filter is unknown.
        """
        if users is not None and len(users) != len(histories):
            raise InputError(f"{len(users)} users, but {len(histories)} histories; give pairs")
        for row, history in enumerate(histories):
            if len(history) and np.asarray(history).dtype.kind not in "iu":
                raise InputError(
                    f"history {row} (counted from 0) must hold item numbers from 1 to"
                    f" {num_items} and nothing else"
                )
        rows_H, items_H = flat_histories(histories)
        wrong_H = (items_H < 1) | (items_H > num_items)
        if wrong_H.any():
            place = wrong_H.argmax()
            raise InputError(
                f"history {rows_H[place]} (counted from 0) holds {items_H[place]}, which is no"
                f" item; items are 1 to {num_items}"
            )
        names = [filter] * len(histories) if filter is None or isinstance(filter, str) else filter
        if len(names) != len(histories):
            raise InputError(f"{len(names)} filters, but {len(histories)} histories; give pairs")
        unknown = [name for name in names if name is not None and name not in filter_numbers]
        if unknown:
            known = ", ".join(filter_numbers) or "there are none"
            raise InputError(f"no filter {unknown[0]!r}; choose one of: {known}")
        numbers = [0 if name is None else filter_numbers[name] for name in names]
        return cls(users, histories, np.array(numbers, np.int32))

    def drawn(
        self,
        temperature: float | Sequence[float],
        id_length: int,
        seed: int | Sequence[int],
    ) -> "Requests":
        """The same requests for draws; InputError unless the temperatures are fit."""
        values = np.asarray(temperature, np.float32)
        is_fit = values.shape in ((), (id_length,))
        if not is_fit or not (np.isfinite(values) & (values >= _COLDEST)).all():
            raise InputError(
                f"temperature is {temperature}; give one number of at least {_COLDEST:g}, or "
                f"{id_length} of them"
            )
        return dataclasses.replace(
            self,
            keys_B=_keys(seed, len(self.histories)),
            temperatures_I=np.broadcast_to(values, (id_length,)),
        )

    def without_histories(self, row_of_item_N: np.ndarray) -> "Requests":
        """The same requests for other items than those of the histories."""
        denied = [
            np.unique(row_of_item_N[np.asarray(history, np.int64)]) for history in self.histories
        ]
        longest = max(map(len, denied), default=0)
        width = _SHORTEST_DENIED
        while width < longest:
            width *= 8
        denied_BD = np.full((len(denied), width), -1, np.int32)
        for row, rows in enumerate(denied):
            denied_BD[row, : len(rows)] = rows
        return dataclasses.replace(self, denied_BD=denied_BD)

    def batch(self, rows: np.ndarray, size: int) -> "Requests":
        """Some of the requests, filled up with repeated ones to make `size`."""
        rows = np.resize(rows, size)

        def taken(values):
            return None if values is None else values[rows]

        return Requests(
            None if self.users is None else [self.users[row] for row in rows],
            [self.histories[row] for row in rows],
            self.filter_B[rows],
            taken(self.keys_B),
            self.temperatures_I,
            taken(self.denied_BD),
            None if self.prior is None else self.prior.rows(rows),
        )

    @property
    def sampling(self) -> Sampling | None:
        """How items are drawn."""
        return None if self.keys_B is None else Sampling(self.keys_B, self.temperatures_I)


def _keys(seed: int | Sequence[int], number: int) -> jax.Array:
    """Random keys, of one seed by their places, or each the first of a seed of its own."""
    seeds = np.asarray(seed)
    if seeds.dtype.kind not in "iu" or not ((seeds >= 0) & (seeds <= _LARGEST_SEED)).all():
        raise InputError(f"seed is {seed}; give whole numbers from 0 to {_LARGEST_SEED}")
    if not seeds.ndim:
        return jax.random.split(jax.random.key(int(seeds)), number)
    if seeds.shape != (number,):
        raise InputError(f"{len(seeds)} seeds, but {number} histories; give pairs")
    own_keys = jax.vmap(lambda own: jax.random.split(jax.random.key(own), 1)[0])
    return own_keys(seeds.astype(np.int32))


class InRawIds:
    """The answers of a recommender in the raw ids of the user's own data.

    A recommender that is one has `recommend`, from item numbers to item numbers, `item_number`, raw
    id -> item number, and `item_ids`, raw ids [N + 1] of which the first is "".
    """

    def recommend_raw(
        self,
        users: Sequence[str | None] | None,
        histories: Sequence[Sequence[str]],
        num_results: int = 10,
        exclude_history: bool = True,
        filter: str | Sequence[str | None] | None = None,
        temperature: float | Sequence[float] | None = None,
        seed: int | Sequence[int] = 0,
    ) -> list[Answer]:
        """`recommend` in raw ids; unknown ones of the histories are skipped."""
        number = self.item_number
        known = [
            np.array([number[raw_id] for raw_id in history if raw_id in number], np.int32)
            for history in histories
        ]
        ranked = self.recommend(
            users, known, num_results, exclude_history, filter, temperature, seed
        )
        answers = []
        for history, items, scores in zip(
            histories, ranked.item_numbers, ranked.scores, strict=True
        ):
            found = [self.item_ids[item] for item in items[items > 0]]
            unknown = [raw_id for raw_id in history if raw_id not in number]
            num_items = len(self.item_ids) - 1
            answers.append(Answer(found, scores[items > 0].tolist(), unknown, num_items))
        return answers
