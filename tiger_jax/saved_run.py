"""A training run as it lies on disk: model, parameters and the Semantic IDs that it speaks."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tiger_jax import artifacts, checkpoints
from tiger_jax.artifacts import InputError
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

TRAIN = "python -m tiger_jax.train"
RUN = "run.json"
# What a run has to say of itself.
_SETTINGS = ("ids", "table", "network", "num_user_tokens", "normalize", "max_history")


@dataclasses.dataclass(frozen=True)
class Run:
    """All that recommending needs of a run.

    Attributes:
      model: the network and its vocabulary.
      params: its parameters.
      table: the Semantic IDs that it was trained with, or those grown out of them.
      max_history: the model sees that many of the latest items.
      step: training steps behind the parameters.
      item_ids: raw id of each item number; item_ids[0] is "".
    """

    model: TigerModel
    params: dict
    table: SemanticIdTable
    max_history: int
    step: int
    item_ids: Sequence[str]


def load(
    folder: str | os.PathLike,
    run: str,
    step: int | None = None,
    sequences: Sequences | None = None,
) -> Run:
    """Reads a run.

    Args:
      folder: the prepared folder.
      run: name of the run in it, which may be a MODEL_DIR of T5X; a path from the root on
        for one elsewhere.
      step: which of its checkpoints; where None the best one by validation, T5X's last.
      sequences: those of the folder, if they have been read already.

    Raises:
      InputError: something is missing or damaged, or the items or their Semantic IDs are no
        longer those that the run was trained with.
    """
    run_folder = pathlib.Path(folder, "runs", run)
    settings = settings_of(run_folder, TRAIN)
    if model := settings.get("model"):
        raise InputError(
            f"{run_folder}: a run of {model}, not of TIGER; give one of {TRAIN}, "
            f"or this one by --{model} where a verb has that"
        )
    artifacts.require_keys(run_folder / RUN, settings, _SETTINGS, TRAIN)
    sequences = sequences or Sequences.load(pathlib.Path(folder, SEQUENCES))
    table_path = pathlib.Path(folder, "ids", str(settings["ids"]), "semantic_ids.npz")
    table = SemanticIdTable.load(table_path, sequences.header["items_checksum"])
    if not table.continues(settings["table"]):
        raise InputError(
            f"{table_path}: not the table that {run_folder} was trained with; train again"
            f" under another name with {TRAIN}"
        )
    with artifacts.refusing_damage(run_folder / RUN, "run's", TRAIN):
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
    return Run(model, params, table, settings["max_history"], step, sequences.item_ids)


def settings_of(
    run_folder: pathlib.Path, made_by: str, needs: Sequence[str] = ("network",)
) -> dict[str, Any]:
    """What a run says of itself; InputError, which names the runs beside it, if there is none."""
    path = run_folder / RUN
    if not path.is_file():
        others = sorted(other.parent.name for other in run_folder.parent.glob(f"*/{RUN}"))
        if others:
            raise InputError(
                f"{run_folder}: no such run; give one of {', '.join(others)}, or make it with "
                f"{made_by}"
            )
    return artifacts.load_json(path, made_by, needs)


def training_facts(
    run_folder: pathlib.Path, facts: Sequence[str], newer: Sequence[str] = ()
) -> dict[str, Any]:
    """How a run was trained: steps, seconds, settings, and the commit of the code that began it.

    Args:
      run_folder: of the run.
      facts: settings that it must tell.
      newer: settings that runs of before, or of T5X, do not tell, and then have not here.
    """
    settings = settings_of(run_folder, TRAIN, facts)
    checkpoint_folder = checkpoints.folder_of(run_folder)
    last = checkpoints.last_step(checkpoint_folder)
    return {
        "steps": last,
        "seconds": checkpoints.load_metadata(checkpoint_folder, last).get("seconds"),
        **{name: settings[name] for name in (*facts, *newer) if name in settings},
        "commit": settings.get("provenance", {}).get("commit"),
    }


def require_interactions(run_folder: pathlib.Path, sequences: Sequences, made_by: str) -> None:
    """InputError where a run was trained on other interactions: it may have seen these' targets."""
    now = sequences.interactions_checksum()
    found = settings_of(run_folder, made_by).get("interactions", now)
    if found != now:
        raise InputError(
            f"{run_folder}: trained on other interactions than the folder holds now, so that items "
            f"to be predicted may be among them; train again under another name with {made_by}"
        )


def claim(
    run_folder: pathlib.Path,
    settings: Mapping[str, Any],
    configuration: str,
    made_by: str,
    absent: Mapping[str, Any] | None = None,
) -> None:
    """Writes a new run's settings, or checks that the run to go on with has the same.

    The run is this process's own from then on.

    Args:
      run_folder: gets run.json and config.gin.
      settings: what the run's parameters depend on, JSON-able.
      configuration: gin text that set it up.
      made_by: the command that trains, for the error message.
      absent: what settings were before runs knew them; those of the network by their names in it.

    Raises:
      InputError: the run was begun with other settings, or another process trains it.
    """
    own_checkpoints = run_folder / "checkpoints"
    artifacts.own(own_checkpoints)
    path = run_folder / RUN
    if not path.exists():
        with artifacts.atomic_path(run_folder / "config.gin") as temporary:
            temporary.write_text(configuration, encoding="utf-8")
        artifacts.save_json(path, {**settings, "provenance": artifacts.provenance()})
        return
    try:
        _require_begun_with(path, settings, made_by, absent)
    except artifacts.InputError:
        # Beside an empty one, the checkpoints of T5X in the run's folder would not be seen.
        with contextlib.suppress(OSError):
            own_checkpoints.rmdir()
        raise


def _require_begun_with(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    made_by: str,
    absent: Mapping[str, Any] | None,
) -> None:
    """InputError unless a run's run.json has the settings; see `claim`."""
    found = artifacts.load_json(path, made_by, needs=("network",))
    with artifacts.refusing_damage(path, "run's", made_by):
        for name, value in (absent or {}).items():
            nested = isinstance(value, dict)
            found[name] = value | found[name] if nested else found.get(name, value)
    artifacts.require_same(
        f"{path}: the run was begun", found, settings, "give this run another name with --run"
    )
