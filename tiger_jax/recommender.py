"""From histories to ranked items with a trained model.

Batches, lengths and widths of the search are chosen here. The search itself is `model/beam.py`;
what a list is worth, `metrics.py` says.
"""

import copy
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from tiger_jax import saved_run
from tiger_jax.artifacts import InputError
from tiger_jax.data.sequences import Sequences
from tiger_jax.metrics import RankedItems
from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel
from tiger_jax.requests import InRawIds, ItemPrior, Requests
from tiger_jax.semantic_ids.filters import Filters, Restriction
from tiger_jax.semantic_ids.invalid_ids import match_prefixes, without_invalid_ids
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import PAD

SEARCHES = ("constrained", "free", "free_filtered", "prefix_match")

# Histories in one search; few of them are not padded to a whole batch.
_FEW = 8


class Recommender(InRawIds):
    """TIGER: a search for the Semantic IDs of the items that follow a history.

    Searches (TIGER section 4.5 for the last three):
      constrained: over the IDs of the catalogue alone; every result is an item.
      free: over all tokens; an ID that no item has takes its place in the list as item 0.
      free_filtered: the same without such IDs; a user who is left with too few results is
        searched for again with twice the beams, up to `max_beams`.
      prefix_match: such an ID is replaced by an item that shares its longest prefix; the rule
        is that of `match_prefixes`.

    Args:
      model: the network and its vocabulary.
      params: its parameters; None for a recommender that waits for `with_params`.
      table: the Semantic IDs, those that the model was trained with.
      max_history: the model sees that many of the latest items.
      num_beams: width of the search; a request for more results widens it.
      search: one of `SEARCHES`.
      max_beams: the widest search, and so the longest list; where None 256, or `num_beams` if that
        is more.
      batch_size: histories in one search.
      step: training steps behind the parameters, where they are from a checkpoint.
      item_ids: raw id of each item number, item_ids[0] is none; None where nobody asks for them.
      capacity: number of items that a table may grow to before anything is compiled again.

    Raises:
      InputError: an unknown search, or more beams than `max_beams`.
    """

    def __init__(
        self,
        model: TigerModel,
        params: dict | None,
        table: SemanticIdTable,
        max_history: int,
        num_beams: int = 30,
        search: str = "constrained",
        max_beams: int | None = None,
        batch_size: int = 64,
        step: int | None = None,
        item_ids: Sequence[str] | None = None,
        capacity: int | None = None,
    ):
        if search not in SEARCHES:
            raise InputError(f"search is {search!r}; choose one of {', '.join(SEARCHES)}")
        if num_beams < 1 or batch_size < 1:
            raise InputError(f"num_beams={num_beams}, batch_size={batch_size}: at least 1 each")
        max_beams = max(256, num_beams) if max_beams is None else max_beams
        if num_beams > max_beams:
            raise InputError(f"num_beams={num_beams}: {max_beams} are allowed (max_beams)")
        self.model = model
        self.params = jax.device_put(params)
        self.max_history = max_history
        self.num_beams = num_beams
        self.search = search
        self.max_beams = max_beams
        self.batch_size = batch_size
        self.step = step
        sizes = table.codebook_sizes
        trie = Trie.from_semantic_ids(table.semantic_ids_NI, sizes, capacity)
        self._take(table, trie, item_ids)

    def _take(
        self, table: SemanticIdTable, trie: Trie, item_ids: Sequence[str] | None
    ) -> "Recommender":
        self.table = table
        self.item_ids = item_ids
        self.__dict__.pop("item_number", None)  # that of the catalogue before
        items_N = trie.items_N[: table.num_items]
        self._items_N = items_N
        self._row_of_item_N = np.zeros(table.num_items + 1, np.int32)
        self._row_of_item_N[items_N] = np.arange(len(items_N))
        self._tokens_NI = self.model.vocabulary.token_table(table.semantic_ids_NI)
        self.trie = jax.device_put(trie)
        self._filters, self._filter_numbers = None, {}
        return self

    @property
    def filter_names(self) -> tuple[str, ...]:
        """Of the filters that requests may name."""
        return tuple(self._filter_numbers)

    @functools.cached_property
    def item_number(self) -> dict[str, int]:
        """Raw id -> item number."""
        return {raw_id: number for number, raw_id in enumerate(self.item_ids) if number}

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        run: str,
        step: int | None = None,
        sequences: Sequences | None = None,
        **options,
    ) -> "Recommender":
        """The recommender of a training run.

        Args:
          folder, run, step, sequences: as for `saved_run.load`.
          **options: `num_beams`, `search`, `max_beams`, `batch_size` and `capacity` of the class.

        Raises:
          InputError: something is missing or damaged, or the items or their Semantic IDs are no
            longer those that the run was trained with.
        """
        return cls.of(saved_run.load(folder, run, step, sequences), **options)

    @classmethod
    def of(cls, run: saved_run.Run, **options) -> "Recommender":
        """The recommender of a training run that has been loaded."""
        return cls(
            run.model,
            run.params,
            run.table,
            run.max_history,
            step=run.step,
            item_ids=run.item_ids,
            **options,
        )

    def with_params(self, params: dict) -> "Recommender":
        """The same recommender with other parameters; nothing is compiled or built again."""
        other = copy.copy(self)
        other.params = jax.device_put(params)
        return other

    def with_table(self, table: SemanticIdTable, item_ids: Sequence[str] | None) -> "Recommender":
        """The same recommender for a catalogue with new items, without filters yet.

        Nothing is compiled again where the first one's `capacity` holds the table.

        Args:
          table: has grown out of the one in use (`make_ids --add`).
          item_ids: raw ids, those of the new items included; None where nobody asks for them.

        Raises:
          InputError: it has not.
        """
        if not table.continues(self.table.checksum()):
            raise InputError(
                "the new table has not grown out of the one in use; make it with"
                " python -m tiger_jax.make_ids --add"
            )
        trie = self.trie.updated(table.semantic_ids_NI)
        return copy.copy(self)._take(table, trie, item_ids)

    def with_filters(self, subsets: Mapping[str, np.ndarray]) -> "Recommender":
        """The same recommender with named filters.

        Args:
          subsets: by name, bool [N + 1]: whether an item number may be recommended.
        """
        for name, subset_N in subsets.items():
            if np.shape(subset_N) != (self.table.num_items + 1,):
                raise InputError(
                    f"filter {name!r} has shape {np.shape(subset_N)}; give a truth value for each"
                    f" item number, 0 to {self.table.num_items}"
                )
        other = copy.copy(self)
        other._filters = jax.device_put(Filters.build(self.trie, list(subsets.values())))
        other._filter_numbers = {name: number for number, name in enumerate(subsets, start=1)}
        return other

    def recommend(
        self,
        users: Sequence[str | None] | None,
        histories: Sequence[Sequence[int]],
        num_results: int,
        exclude_history: bool = True,
        filter: str | Sequence[str | None] | None = None,
        temperature: float | Sequence[float] | None = None,
        seed: int | Sequence[int] = 0,
        prior: ItemPrior | None = None,
    ) -> RankedItems:
        """The best items to follow each history, scored by log p(item) in nats.

        Args:
          users: raw ids; None, for all or for one, leaves the user token out.
          histories: item numbers, oldest first, of any lengths; an empty one is answered too.
          num_results: R, length of the lists; slots are unused where there are no more items, or
            where a free search with `max_beams` finds no more.
          exclude_history: leaves out all items of a history, also those that the model no longer
            sees.
          filter: name of one of `with_filters`, for all or for each history; None for no filter.
          temperature: draws items without replacement instead of taking the best, in the order
            of the draws (`beam.Sampling`); one number, or one for each part of an ID.
          seed: of the draws; those of a history depend on its place in `histories` too. Or one for
            each: it is drawn for as if it were alone.
          prior: another distribution over items for each history; lists and scores are then those
            of (1 - weight) p_model(item) + weight p_prior(item) (`model/prior.py`).

        Raises:
          InputError: a number in a history is no item, users and histories differ in number, a
            filter is unknown, a temperature is below 1e-6, the prior is no distribution, or the
            lists are too long.
        """
        requests = self.checked(users, histories, num_results, filter)
        if temperature is not None:
            requests = requests.drawn(temperature, self.table.id_length, seed)
        if prior is not None:
            prior = prior.checked(len(histories), self.table.num_items)
            requests = dataclasses.replace(requests, prior=prior)
        if self.search == "constrained":
            if exclude_history:
                requests = requests.without_histories(self._row_of_item_N)
        elif requests.filter_B.any() or temperature is not None or prior is not None:
            raise InputError(
                "filters, temperatures and priors are for the constrained search alone"
            )
        shape = (len(histories), num_results)
        item_numbers_BR = np.zeros(shape, np.int32)
        scores_BR = np.full(shape, -np.inf, np.float32)
        rows = np.arange(len(histories))
        num_beams = max(self.num_beams, num_results)
        while len(rows):
            ranked = self._ranked(requests, rows, num_beams)
            if self.search == "free_filtered":
                ranked = without_invalid_ids(ranked)
            if exclude_history:
                ranked = ranked.without([histories[row] for row in rows])
            ranked = ranked.top(num_results)
            item_numbers_BR[rows], scores_BR[rows] = ranked.item_numbers, ranked.scores
            # The constrained search finds as many as it is wide, or all that are left.
            if self.search == "constrained" or num_beams >= self.max_beams:
                break
            rows = rows[~ranked.used.all(axis=1)]
            num_beams = min(2 * num_beams, self.max_beams)
        return RankedItems(item_numbers_BR, scores_BR)

    def checked(
        self,
        users: Sequence[str | None] | None,
        histories: Sequence[Sequence[int]],
        num_results: int,
        filter: str | Sequence[str | None] | None = None,
    ) -> Requests:
        """What is asked, if it can be answered; see `recommend`.

        Raises:
          InputError: it cannot.
        """
        if not 1 <= num_results <= self.max_beams:
            raise InputError(f"num_results is {num_results}; ask for 1 to {self.max_beams}")
        return Requests.check(users, histories, self.table.num_items, filter, self._filter_numbers)

    def encoder_tokens(
        self,
        users: Sequence[str | None] | None,
        histories: Sequence[Sequence[int]],
        capacity: int | None = None,
    ) -> np.ndarray:
        """What the encoder reads: user token, tokens of the latest items, padding; int32 [B, S].

        Args:
          users: raw ids, or None.
          histories: item numbers, oldest first.
          capacity: number of items that there is room for; `max_history` where None.
        """
        capacity = self.max_history if capacity is None else capacity
        items_BH = np.zeros((len(histories), capacity), np.int64)
        for row, history in enumerate(histories):
            latest = history[max(len(history) - capacity, 0) :]
            items_BH[row, : len(latest)] = latest
        tokens_BS = self._tokens_NI[items_BH].reshape(len(histories), -1)
        if users is None or not self.model.vocabulary.num_user_tokens:
            return tokens_BS
        user_tokens_B = self.model.vocabulary.user_tokens([user or "" for user in users])
        # Attention is relative, so that padding in front is no token at all.
        user_tokens_B[[user is None for user in users]] = PAD
        return np.column_stack([user_tokens_B, tokens_BS])

    def _ranked(self, requests: Requests, rows: np.ndarray, num_beams: int) -> RankedItems:
        """All that one search with `num_beams` finds for some of the requests, [rows, num_beams].

        Few shapes are compiled: histories of like length share a batch, so that short ones do not
        pay for the padding of long ones, and the last batch of a length is filled up.
        """
        # A wider search takes fewer histories at a time: the same memory.
        size = max(1, self.batch_size * self.num_beams // num_beams)
        size = 1 if len(rows) == 1 else min(size, _FEW) if len(rows) <= _FEW else size
        item_numbers_BM = np.zeros((len(rows), num_beams), np.int32)
        scores_BM = np.zeros((len(rows), num_beams), np.float32)
        lengths = np.array([len(requests.histories[row]) for row in rows])
        capacities = _capacities(self.max_history)
        group = np.searchsorted(capacities, np.minimum(lengths, self.max_history))
        running = []
        for number, capacity in enumerate(capacities):
            members = np.flatnonzero(group == number)
            for first in range(0, len(members), size):
                places = members[first : first + size]
                batch = requests.batch(rows[places], size)
                running.append((places, self._search(batch, capacity, num_beams)))
        # Only now is anything waited for: a batch is made while the one before is searched.
        for places, found in running:
            ranked = self._read(*map(np.asarray, found))
            item_numbers_BM[places] = ranked.item_numbers[: len(places)]
            scores_BM[places] = ranked.scores[: len(places)]
        return RankedItems(item_numbers_BM, scores_BM)

    def _search(
        self, batch: Requests, capacity: int, num_beams: int
    ) -> tuple[jax.Array, jax.Array]:
        """Item numbers [B, M], or tokens [B, M, I] where the search is free; and scores."""
        tokens_BS = self.encoder_tokens(batch.users, batch.histories, capacity)
        if self.search != "constrained":
            return _free_tokens(self.model, self.params, tokens_BS, num_beams)
        denied_BDI = None
        if batch.denied_BD is not None:
            is_denied = batch.denied_BD[..., None] >= 0
            ids_BDI = self.table.semantic_ids_NI[self._items_N[batch.denied_BD]]
            denied_BDI = np.where(is_denied, ids_BDI, -1)
        filters = self._filters if batch.filter_B.any() else None
        restriction = Restriction(filters, batch.filter_B if filters else None, denied_BDI)
        prior = None if batch.prior is None else batch.prior.by_ids(self.table.semantic_ids_NI)
        options = restriction, batch.sampling, prior
        return _constrained_items(
            self.model, self.params, self.trie, tokens_BS, num_beams, *options
        )

    def _read(self, found_BMX: np.ndarray, scores_BM: np.ndarray) -> RankedItems:
        """What `_search` found, as lists."""
        if self.search == "constrained":
            return RankedItems(found_BMX, scores_BM)
        semantic_ids_BMI = self.model.vocabulary.semantic_ids(found_BMX)
        ranked = RankedItems(self.table.item_numbers(semantic_ids_BMI), scores_BM)
        if self.search == "prefix_match":
            return match_prefixes(ranked, semantic_ids_BMI, self.trie)
        return ranked


@functools.partial(jax.jit, static_argnames=("model", "num_beams"))
def _constrained_items(model, params, trie, tokens_BS, num_beams, restriction, sampling, prior):
    """Item numbers and scores, [B, M] each."""
    rows_BM, scores_BM = beam.constrained_search(
        model, params, trie, tokens_BS, num_beams, None, restriction, sampling, prior
    )
    return trie.item_numbers(rows_BM), scores_BM


@functools.partial(jax.jit, static_argnames=("model", "num_beams"))
def _free_tokens(model, params, tokens_BS, num_beams):
    """Tokens [B, M, I] and scores [B, M]."""
    return beam.free_search(model, params, tokens_BS, num_beams)


def _capacities(max_history: int) -> list[int]:
    """Numbers of items that a search is compiled for, ascending: `max_history`, half, a quarter."""
    return sorted({-(-max_history // part) for part in (1, 2, 4)})
