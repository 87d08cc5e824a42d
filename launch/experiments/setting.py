"""What an experiment is given to work with: one dataset at one budget; what is missing is made."""

import functools
import inspect
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax

import gin
from launch.experiments import recipes
from launch.experiments.budgets import NO_TEACHER, Budget
from launch.experiments.scores import joined, seed_row
from tiger_jax import artifacts, checkpoints, eval, make_ids, prepare, saved_run, teach, train
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.metrics import RankedItems
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

DATASETS = ("beauty", "sports", "toys")

# Stand above tables of what the cards make.
ON_TEACHERS = (
    "TIGER of the cpu budget learns from counts and content as well as from the items that came, "
    "which the paper's does not (docs/training.md)."
)
ON_IDS = (
    "Its IDs there are by residual k-means of content and co-occurrence, the paper's by an RQ-VAE "
    "of content alone (Table 2 has both)."
)
ON_TIGER = f"{ON_TEACHERS} {ON_IDS}"

# What of an evaluation is kept besides the scores.
_FACTS = ("run", "step", "training", "num_beams", "search", "num_users", "invalid_id_rate")
_FACTS += ("distinct_items", "users_per_s", "hardware", "commit")
_EVAL = "python -m tiger_jax.eval"


class Setting:
    """One dataset at one budget: what is there is taken, what is missing is made.

    Attributes:
      dataset: beauty, sports or toys.
      budget: see `budgets.BUDGETS`.
      seeds: of the models; Semantic IDs are made with seed 0, once for all of them.
      recorded: values of a result that was cut off, as far as it got.
      card: the budget's gin card for the dataset.
      tables: {name of IDs: checksum of their table}, those used so far.
      trained: {name of a run of TIGER: how it was trained}, those used so far.
    """

    def __init__(
        self,
        dataset: str,
        budget: Budget,
        seeds: Sequence[int],
        recorded: Mapping[str, Any] | None = None,
        tables: Mapping[str, str] | None = None,
        trained: Mapping[str, dict[str, Any]] | None = None,
    ):
        self.dataset, self.budget, self.seeds = dataset, budget, tuple(seeds)
        self.recorded = dict(recorded or {})
        self.card = budget.card.format(dataset=dataset)
        self.tables = dict(tables or {})
        self.trained = dict(trained or {})

    def at(self, dataset: str) -> "Setting":
        """The same for another dataset."""
        return Setting(dataset, self.budget, self.seeds)

    @functools.cached_property
    def folder(self) -> pathlib.Path:
        """The prepared folder."""
        folder = self.planned_folder
        if not (folder / SEQUENCES).is_file():
            flags = [f"--folder={folder}", *self.budget.small]
            if self.budget.is_toy:
                # Three catalogues that differ.
                flags.append(f"--seed={DATASETS.index(self.dataset)}")
            self.verb(prepare, *flags)
        return folder

    @property
    def planned_folder(self) -> pathlib.Path:
        """Where the prepared folder is or will be."""
        return pathlib.Path(self.budget.folder.format(dataset=self.dataset))

    @functools.cached_property
    def sequences(self) -> Sequences:
        """The dataset's sequences."""
        return Sequences.load(self.folder / SEQUENCES)

    def facts(self) -> dict[str, Any]:
        """What the data are: their checksum, encoder and text fields.

        Of embeddings counts what they were made from, where that is known: their last bits are the
        processor's, and a table may go on where it was not begun.
        """
        _, source = content.load_embeddings(self.folder)
        encoder = content.encoder_name(source["encoder"])
        texts = source.get("texts_checksum", source["checksum"])
        return {
            "data": artifacts.checksum(self.sequences.checksum(), texts, encoder),
            "encoder": encoder,
            "text_fields": source["text_fields"],
        }

    def growing_row(
        self,
        label: str,
        make: Callable[..., dict[str, Any]],
        card: str = "",
        ids_card: str = "",
        flags: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """A row of a table, after each of its seeds; those recorded of this recipe are taken.

        Args:
          label: of the row.
          make: makes it for one seed, `make(seed=0)`; see `scores.seed_row`.
          card: that it is trained by; empty for the budget's own.
          ids_card: the file of gin/ids that its Semantic IDs are by, if not the budget's own.
          flags: of the budget that it is trained with.
        """
        cards = (card or self.card, *([f"gin/ids/{ids_card}.gin"] if ids_card else []))
        all_flags = repr(([*flags], [*self.budget.ids_flags.get(ids_card, ())]))
        recipe = artifacts.checksum(*map(recipes.settings_checksum, cards), all_flags)
        found = self.recorded.get("rows", {}).get(label)
        if found is not None and found.get("recipe") != recipe:
            print(f"{label}: was recorded of another recipe and is made again")
            self._forget(found)
            found = None
        rows = [found] if found else []
        there = found["seeds"] if found else []
        if set(self.seeds) <= set(there):
            yield found
        for seed in self.seeds:
            if seed not in there:
                rows.append({**make(seed=seed), "recipe": recipe})
                yield joined(rows)

    def _forget(self, row: Mapping[str, Any]) -> None:
        """A recorded row that is made again is of the IDs that will be there then."""
        runs = row.get("runs", ())
        theirs = {run.get("training", {}).get("table") for run in runs}
        self.tables = {ids: table for ids, table in self.tables.items() if table not in theirs}
        for run in runs:
            self.trained.pop(run["run"], None)

    def rows(
        self,
        makers: Mapping[str, Callable[..., dict[str, Any]]],
        ids_cards: Mapping[str, str] | None = None,
        brief: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The values of a table whose rows `growing_row` gives, {label: make}, after each seed.

        Where they are brief, see `tiger`: `make(seed=0, brief=True)`.
        """
        rows, flags = {}, self.budget.brief if brief else ()
        for label, make in makers.items():
            ids_card = (ids_cards or {}).get(label, "")
            make = functools.partial(make, brief=True) if brief else make
            for row in self.growing_row(label, make, ids_card=ids_card, flags=flags):
                rows[label] = row
                yield {"rows": dict(rows)}

    def verb(self, module: ModuleType, *flags: str) -> None:
        """Runs a verb with the budget's card; a fault of the input ends the process, as always."""
        self._run(module, self.card, *flags)

    def _run(self, module: ModuleType, gin_file: str, *flags: str) -> None:
        module.main([module.__name__, f"--gin_file={gin_file}", *flags])
        # Each program runs in one verb alone.
        jax.clear_caches()

    def ids(
        self, card: str = "", variant: str = "", flags: Sequence[str] = (), **made_from: str
    ) -> str:
        """Name of Semantic IDs in the folder.

        Args:
          card: a file of gin/ids; empty for what the budget's own card makes.
          variant: tells these IDs from others by the same card.
          flags: of make_ids.
          **made_from: checksums of what they are made from, beside the folder's own embeddings.
        """
        own = self.macro("IDS")
        name = "_".join(part for part in (card or own, variant) if part)
        # What the budget's card sets for its own IDs is not for others.
        gin_file = f"gin/ids/{card}.gin" if card and card != own else self.card
        flags = ("--seed=0", *self.budget.ids_flags.get(card, ()), *flags)
        if self.budget.is_toy:
            flags = (*flags, "--min_codebook_usage=0")
        checksum = self._make_ids(name, gin_file, flags, made_from)
        path = self.folder / "ids" / name / "semantic_ids.npz"
        self._require_current(path, self.table(name).header)
        if self.tables.setdefault(name, checksum) != checksum:
            raise artifacts.InputError(
                f"{path}: IDs {checksum}, but the rows recorded so far are of {self.tables[name]}; "
                "remove the result to measure all of it anew"
            )
        return name

    def _make_ids(
        self, name: str, gin_file: str, flags: Sequence[str], made_from: Mapping[str, str]
    ) -> str:
        """Checksum of IDs of the folder, made unless they are by this card and these flags."""

        def recipe() -> dict[str, Any]:
            table = self.table(name).checksum()
            card = recipes.settings_checksum(gin_file)
            return {"card": card, "flags": [*flags], "table": table, **made_from}

        def make() -> None:
            self._run(make_ids, gin_file, f"--folder={self.folder}", f"--ids={name}", *flags)

        return recipes.made_by(recipe, make, self.folder / "ids" / name / "made.json")["table"]

    def _require_current(self, path: pathlib.Path, header: Mapping[str, Any]) -> None:
        """InputError where IDs were made before the folder was prepared anew."""
        _, source = content.load_embeddings(self.folder)
        now = {
            "embeddings_checksum": source["checksum"],
            "interactions_checksum": self.sequences.interactions_checksum(),
        }
        for name, checksum in now.items():
            if header.get(name, checksum) != checksum:
                raise artifacts.InputError(
                    f"{path}: {name} is {header[name]}, but {self.folder} has {checksum} now; "
                    f"remove {path.parent} to make the IDs again"
                )

    def content_ids(self) -> str:
        """Name of IDs by an RQ-VAE of the items' content alone, as the paper's are."""
        return self.ids(self.budget.content_ids)

    def table(self, ids: str) -> SemanticIdTable:
        """The table of IDs of the folder."""
        return SemanticIdTable.load(self.folder / "ids" / ids / "semantic_ids.npz")

    def train(
        self, ids: str = "", variant: str = "", flags: Sequence[str] = (), seed: int = 0
    ) -> str:
        """Name of a trained run in the folder: BUDGET-IDS-VARIANT-SEED.

        Args:
          ids: name of IDs in the folder; empty for the budget's own.
          variant: tells this run from others with the same IDs.
          flags: of train.
          seed: of the model.
        """
        ids = ids or self.ids()
        run = "-".join(part for part in (self.budget.name, ids, variant, str(seed)) if part)
        flags = [f"--ids={ids}", f"--seed={seed}", *self._embedding_rows(ids), *flags]
        made_from = {"table": self.table(ids).checksum()}
        if self.macro("TEACHER_WEIGHT") and NO_TEACHER not in flags:
            made_from["soft_targets"] = self._taught()
        self.train_once(train, self.card, run, flags, **made_from)
        kept, newer = ("batch_size", "order_noise", "teacher_weight"), ("imagined_users",)
        facts = saved_run.training_facts(self.folder / "runs" / run, (*kept, "network"), newer)
        self.trained[run] = {
            "steps": facts["steps"],
            "dropout": facts["network"]["dropout_rate"],
            "seconds": facts["seconds"],
            "commit": facts["commit"],
            **{name: facts[name] for name in (*kept, *newer) if name in facts},
        }
        return run

    def _taught(self) -> str:
        """Checksum of the folder's soft targets, which are made unless they are the card's."""

        def recipe() -> dict[str, str]:
            _, source = content.load_embeddings(self.folder)
            found = SoftTargets.load(self.folder, self.sequences, source["checksum"])
            return {"card": recipes.settings_checksum(self.card), "soft_targets": found.checksum()}

        def make() -> None:
            self.verb(teach, f"--folder={self.folder}")

        return recipes.made_by(recipe, make, self.folder / "soft_targets.made.json")["soft_targets"]

    def train_once(
        self, module: ModuleType, gin_file: str, run: str, flags: Sequence[str], **made_from: str
    ) -> None:
        """Trains a run to its end unless that has been done.

        Args:
          module: the verb that trains.
          gin_file: its card.
          run: name of the run.
          flags: of the verb.
          **made_from: checksums of what it learns from, beside the sequences.

        Raises:
          InputError: a run of that name is there which was made in another way.
        """
        run_folder = self.folder / "runs" / run
        # The second says that the run is over, which its checkpoints alone do not.
        begun, finished = run_folder / "begun.json", run_folder / "finished.json"
        made_from |= {
            "sequences": self.sequences.checksum(),
            "card": recipes.settings_checksum(gin_file),
        }
        recipe = {"flags": [*flags], **made_from}
        for record in filter(pathlib.Path.is_file, (begun, finished)):
            found = artifacts.load_json(record, "launch.reproduce")
            artifacts.require_same(
                f"{run_folder}: was trained", found, recipe, "remove the run to train it again"
            )
        if not finished.is_file():
            artifacts.save_json(begun, recipe)
            self._run(module, gin_file, f"--folder={self.folder}", f"--run={run}", *flags)
            artifacts.save_json(finished, recipe)

    def _embedding_rows(self, ids: str) -> Sequence[str]:
        """More rows for IDs with more tokens than the card has room for."""
        rows = self.network().vocab_size
        num_users = self.macro("NUM_USER_TOKENS")
        needed = Vocabulary(self.table(ids).codebook_sizes, num_users).size
        return (f"--gin.network.NetworkConfig.vocab_size={needed}",) if needed > rows else ()

    def macro(self, name: str) -> Any:
        """What the budget's card sets."""
        recipes.parse(self.card)
        return gin.query_parameter(f"%{name}")

    def network(self) -> NetworkConfig:
        """Sizes of the budget's network."""
        return self.macro("NETWORK").scoped_configurable_fn()

    def evaluate(self, run: str, *flags: str, name: str = "test") -> dict[str, Any]:
        """What `tiger_jax.eval` says of a run; said once.

        Args:
          run: name of the run.
          *flags: of eval.
          name: of the folder that eval writes with such flags.
        """
        run_folder = self.folder / "runs" / run
        path = run_folder / "eval" / name / "eval.json"
        load = functools.partial(artifacts.load_json, path, _EVAL, ("num_beams", "step"))
        found = load() if path.is_file() else None
        # One made before the training went on is of another checkpoint.
        if not found or found["step"] != checkpoints.best_step(checkpoints.folder_of(run_folder)):
            self.verb(eval, f"--folder={self.folder}", f"--run={run}", *flags)
            found = load()
        if found["num_beams"] != self._num_beams():
            raise artifacts.InputError(
                f"{path}: of {found['num_beams']} beams, {self.card} has {self._num_beams()}; "
                f"remove {path.parent} to evaluate the run again"
            )
        return found

    def _num_beams(self) -> int:
        """What the budget's card evaluates with."""
        recipes.parse(self.card)
        try:
            return gin.query_parameter("eval.evaluate.num_beams")
        except ValueError:
            return inspect.signature(eval.evaluate).parameters["num_beams"].default

    def lists(self, run: str, *flags: str, name: str = "test") -> RankedItems:
        """The lists that `evaluate` leaves, one a user of the test split, less the histories."""
        self.evaluate(run, *flags, name=name)
        path = self.folder / "runs" / run / "eval" / name / "ranked_items.npz"
        _, found = artifacts.load_arrays(path, "ranked_items", _EVAL)
        histories, _ = self.sequences.split("test")
        return RankedItems(found["item_numbers"], found["scores"]).without(histories)

    def tiger(
        self,
        ids: str = "",
        variant: str = "",
        flags: Sequence[str] = (),
        seed: int = 0,
        brief: bool = False,
    ) -> dict[str, Any]:
        """TIGER trained and evaluated: a row of a table of scores, of one seed.

        Args:
          ids, variant, flags, seed: see `train`.
          brief: whether it is one of the variants that a table compares, all of which are trained
            as briefly as the budget has it for them.

        Returns:
          See `scores.seed_row`.
        """
        if brief and self.budget.brief:
            variant = "_".join(part for part in ("brief", variant) if part)
            flags = (*self.budget.brief, *flags)
        run = self.train(ids, variant, flags, seed)
        return seed_row({**self.evaluate(run), "run": run}, seed, _FACTS)
