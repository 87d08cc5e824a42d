"""From histories to ranked items with a trained model; also the verb that prints titles.

Batches, lengths and widths of the search are chosen here. The search itself is `model/beam.py`;
what a list is worth, `metrics.py` says.
"""

import copy
import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from tiger_jax import artifacts, checkpoints, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.metrics import RankedItems, flat_histories
from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.invalid_ids import match_prefixes, without_invalid_ids
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import Vocabulary

SEARCHES = ("constrained", "free", "free_filtered", "prefix_match")

_EXAMPLES = """
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA,B004ZT0SSG
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA --num_results=5 --json
"""  # noqa: E501

_TRAIN = "python -m tiger_jax.train"
# What a run has to say of itself.
_SETTINGS = ("ids", "table", "network", "num_user_tokens", "normalize", "max_history")


class Recommender:
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
      max_beams: limit of the widening where a list is too short.
      batch_size: histories in one search.
      step: training steps behind the parameters, where they are from a checkpoint.

    Raises:
      InputError: an unknown search.
    """

    def __init__(
        self,
        model: TigerModel,
        params: dict | None,
        table: SemanticIdTable,
        max_history: int,
        num_beams: int = 30,
        search: str = "constrained",
        max_beams: int = 256,
        batch_size: int = 64,
        step: int | None = None,
    ):
        if search not in SEARCHES:
            raise InputError(f"search is {search!r}; choose one of {', '.join(SEARCHES)}")
        if num_beams < 1 or batch_size < 1:
            raise InputError(f"num_beams={num_beams}, batch_size={batch_size}: at least 1 each")
        self.model = model
        self.params = jax.device_put(params)
        self.table = table
        self.max_history = max_history
        self.num_beams = num_beams
        self.search = search
        self.max_beams = max_beams
        self.batch_size = batch_size
        self.step = step
        self.trie = jax.device_put(
            Trie.from_semantic_ids(table.semantic_ids_NI, table.codebook_sizes)
        )
        self._tokens_NI = model.vocabulary.token_table(table.semantic_ids_NI)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike,
        run: str,
        step: int | None = None,
        **options,
    ) -> "Recommender":
        """The recommender of a training run.

        Args:
          folder: the prepared folder.
          run: name of the run in it, which may be a MODEL_DIR of T5X; a path from the root on
            for one elsewhere.
          step: which of its checkpoints; where None the best one by validation, T5X's last.
          **options: `num_beams`, `search`, `max_beams` and `batch_size` of the class.

        Raises:
          InputError: something is missing or damaged, or the items or their Semantic IDs are no
            longer those that the run was trained with.
        """
        run_folder = pathlib.Path(folder, "runs", run)
        settings = artifacts.load_json(run_folder / "run.json", _TRAIN, _SETTINGS)
        sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
        table_path = pathlib.Path(folder, "ids", settings["ids"], "semantic_ids.npz")
        table = SemanticIdTable.load(table_path, sequences.header["items_checksum"])
        if not table.continues(settings["table"]):
            raise InputError(
                f"{table_path}: not the table that {run_folder} was trained with; train again"
                f" under another name with {_TRAIN}"
            )
        with artifacts.refusing_damage(run_folder / "run.json", "run's", _TRAIN):
            model = TigerModel(
                NetworkConfig(**settings["network"]),
                Vocabulary(table.codebook_sizes, settings["num_user_tokens"]),
                settings["normalize"],
            )
            shapes = jax.eval_shape(model.init, jax.random.key(0))
        checkpoint_folder = checkpoints.folder_of(run_folder)
        if step is None:
            step = checkpoints.best_step(checkpoint_folder)
        params = checkpoints.load_params(checkpoint_folder, step, shapes)
        return cls(model, params, table, settings["max_history"], step=step, **options)

    def with_params(self, params: dict) -> "Recommender":
        """The same recommender with other parameters; nothing is compiled or built again."""
        other = copy.copy(self)
        other.params = params
        return other

    def recommend(
        self,
        users: Sequence[str] | None,
        histories: Sequence[Sequence[int]],
        num_results: int,
        exclude_history: bool = False,
    ) -> RankedItems:
        """The best items to follow each history, scored by log p(item) in nats.

        Args:
          users: raw ids; None leaves the user token out.
          histories: item numbers, oldest first, of any lengths; an empty one is answered too.
          num_results: R, length of the lists. Where a list is too short the user is searched for
            again with more beams; what `max_beams` do not fill are unused slots.
          exclude_history: leaves out all items of a history, also those that the model no longer
            sees.

        Raises:
          InputError: a number in a history is no item, or users and histories differ in number.
        """
        self._check(users, histories, num_results)
        shape = (len(histories), num_results)
        item_numbers_BR = np.zeros(shape, np.int32)
        scores_BR = np.full(shape, -np.inf, np.float32)
        rows = np.arange(len(histories))
        num_beams = max(self.num_beams, num_results)
        widest = self.max_beams
        if self.search == "constrained":
            widest = min(widest, self.table.num_items)
        while len(rows):
            some_histories = [histories[row] for row in rows]
            some_users = None if users is None else [users[row] for row in rows]
            ranked = self._ranked(some_users, some_histories, num_beams)
            if self.search == "free_filtered":
                ranked = without_invalid_ids(ranked)
            if exclude_history:
                ranked = ranked.without(some_histories)
            ranked = ranked.top(num_results)
            item_numbers_BR[rows], scores_BR[rows] = ranked.item_numbers, ranked.scores
            if num_beams >= widest:
                break
            rows = rows[~ranked.used.all(axis=1)]
            num_beams = min(2 * num_beams, self.max_beams)
        return RankedItems(item_numbers_BR, scores_BR)

    def encoder_tokens(
        self,
        users: Sequence[str] | None,
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
        return np.column_stack([self.model.vocabulary.user_tokens(users), tokens_BS])

    def _ranked(
        self, users: Sequence[str] | None, histories: Sequence[Sequence[int]], num_beams: int
    ) -> RankedItems:
        """All that one search with `num_beams` finds, [B, num_beams].

        Few shapes are compiled: histories of like length share a batch, so that short ones do not
        pay for the padding of long ones, and the last batch of a length is filled up.
        """
        # A wider search takes fewer histories at a time: the same memory.
        size = max(1, self.batch_size * self.num_beams // num_beams) if len(histories) > 1 else 1
        item_numbers_BM = np.zeros((len(histories), num_beams), np.int32)
        scores_BM = np.zeros((len(histories), num_beams), np.float32)
        lengths = np.array([len(history) for history in histories])
        capacities = _capacities(self.max_history)
        group = np.searchsorted(capacities, np.minimum(lengths, self.max_history))
        running = []
        for number, capacity in enumerate(capacities):
            members = np.flatnonzero(group == number)
            for first in range(0, len(members), size):
                rows = members[first : first + size]
                tokens_BS = self.encoder_tokens(
                    None if users is None else [users[row] for row in rows],
                    [histories[row] for row in rows],
                    capacity,
                )
                tokens_BS = np.pad(tokens_BS, ((0, size - len(rows)), (0, 0)))
                running.append((rows, self._search(tokens_BS, num_beams)))
        # Only now is anything waited for: a batch is made while the one before is searched.
        for rows, found in running:
            ranked = self._read(*map(np.asarray, found))
            item_numbers_BM[rows] = ranked.item_numbers[: len(rows)]
            scores_BM[rows] = ranked.scores[: len(rows)]
        return RankedItems(item_numbers_BM, scores_BM)

    def _search(self, tokens_BS: np.ndarray, num_beams: int) -> tuple[jax.Array, jax.Array]:
        """Item numbers [B, M], or tokens [B, M, I] where the search is free; and scores."""
        if self.search == "constrained":
            return _constrained_items(self.model, self.params, self.trie, tokens_BS, num_beams)
        return _free_tokens(self.model, self.params, tokens_BS, num_beams)

    def _read(self, found_BMX: np.ndarray, scores_BM: np.ndarray) -> RankedItems:
        """What `_search` found, as lists."""
        if self.search == "constrained":
            return RankedItems(found_BMX, scores_BM)
        semantic_ids_BMI = self.model.vocabulary.semantic_ids(found_BMX)
        ranked = RankedItems(self.table.item_numbers(semantic_ids_BMI), scores_BM)
        if self.search == "prefix_match":
            return match_prefixes(ranked, semantic_ids_BMI, self.trie)
        return ranked

    def _check(self, users, histories, num_results: int) -> None:
        if num_results < 1:
            raise InputError(f"num_results is {num_results}; ask for at least 1")
        if users is not None and len(users) != len(histories):
            raise InputError(f"{len(users)} users, but {len(histories)} histories; give pairs")
        for row, history in enumerate(histories):
            if len(history) and np.asarray(history).dtype.kind not in "iu":
                raise InputError(
                    f"history {row} (counted from 0) must hold item numbers from 1 to"
                    f" {self.table.num_items} and nothing else"
                )
        rows_H, items_H = flat_histories(histories)
        wrong_H = (items_H < 1) | (items_H > self.table.num_items)
        if wrong_H.any():
            place = wrong_H.argmax()
            raise InputError(
                f"history {rows_H[place]} (counted from 0) holds {items_H[place]}, which is no"
                f" item; items are 1 to {self.table.num_items}"
            )


@functools.partial(jax.jit, static_argnames=("model", "num_beams"))
def _constrained_items(model, params, trie, tokens_BS, num_beams):
    """Item numbers and scores, [B, M] each."""
    rows_BM, scores_BM = beam.constrained_search(model, params, trie, tokens_BS, num_beams)
    return trie.item_numbers(rows_BM), scores_BM


@functools.partial(jax.jit, static_argnames=("model", "num_beams"))
def _free_tokens(model, params, tokens_BS, num_beams):
    """Tokens [B, M, I] and scores [B, M]."""
    return beam.free_search(model, params, tokens_BS, num_beams)


def _capacities(max_history: int) -> list[int]:
    """Numbers of items that a search is compiled for, ascending: `max_history`, half, a quarter."""
    return sorted({-(-max_history // part) for part in (1, 2, 4)})


def recommend(
    folder: str,
    run: str,
    history: str = "",
    user: str = "",
    num_results: int = 10,
    exclude_history: bool = True,
    num_beams: int = 30,
    search: str = "constrained",
    step: int | None = None,
) -> dict:
    """Prints the items that a trained model expects after a history, best first.

    Args:
      folder: the prepared folder.
      run: name of the run in it, made by tiger_jax.train.
      history: raw item ids, oldest first, separated by commas; unknown ones are skipped. If not
        given, what the prepared data holds of the user.
      user: raw user id; if not given, the model is told nothing of the user, and where there is no
        history either, the first user of the prepared data stands in.
      num_results: number of items.
      exclude_history: leaves out the items of the history.
      num_beams: width of the search.
      search: constrained, free, free_filtered or prefix_match; see `Recommender`.
      step: checkpoint of the run; the best one by validation if not given.
    """
    recommender = Recommender.load(folder, run, step, num_beams=num_beams, search=search)
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    titles = ["(invalid ID)", *(row["title"] or "(no title)" for row in content.load_items(folder))]

    if history:
        raw_ids = [raw_id.strip() for raw_id in history.split(",") if raw_id.strip()]
    else:
        user = user or sequences.user_ids[0]
        raw_ids = _stored_history(sequences, user)
    unknown = [raw_id for raw_id in raw_ids if raw_id not in sequences.item_number]
    items = [sequences.item_number[raw_id] for raw_id in raw_ids if raw_id not in unknown]
    users = [user] if user else None
    ranked = recommender.recommend(users, [items], num_results, exclude_history)
    results = [
        {"item_id": sequences.item_ids[item], "title": titles[item], "score": float(score)}
        for item, score in zip(ranked.item_numbers[0], ranked.scores[0], strict=True)
        if np.isfinite(score)
    ]

    who = f"user {user}, " if user else ""
    print(f"{run}, step {recommender.step}; {who}history of {len(items)} items:")
    for item in items:
        print(f"     {sequences.item_ids[item]}  {titles[item]}")
    if unknown:
        print(f"{len(unknown)} unknown ids skipped: {', '.join(unknown[:10])}")
    print("recommended, with log p in nats:")
    for rank, row in enumerate(results, start=1):
        print(f"{rank:>4} {row['item_id']}  {row['title']}  {row['score']:.3f}")
    return {
        "history": [sequences.item_ids[item] for item in items],
        "unknown": unknown,
        "step": recommender.step,
        "results": results,
    }


def _stored_history(sequences: Sequences, user: str) -> list[str]:
    """Raw ids of all the items of a user of the prepared data."""
    if user not in sequences.user_ids:
        raise InputError(f"user {user!r} is not in the prepared data; give a --history")
    return [sequences.item_ids[item] for item in sequences.sequence(sequences.user_ids.index(user))]


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(recommend, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.recommend import main

    main()
