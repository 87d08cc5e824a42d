"""SASRec's runs for the experiments that set it beside TIGER: made where missing, shared by all."""

from typing import Any

from launch.experiments.scores import seed_row
from launch.experiments.setting import Setting
from tiger_jax import artifacts, train_sasrec
from tiger_jax.sasrec import TRAIN, SasRec

# In tables.
LABEL = "SASRec with softmax loss"
CARD = "gin/baseline/sasrec.gin"
_TOY = ("--num_epochs=2", "--num_groups=1", "--gin.sasrec.SasRecConfig.width=16")
_FACTS = ("run", "step", "training", "parameters", "distinct_items", "hardware", "commit")


def evaluated(setting: Setting, seed: int) -> dict[str, Any]:
    """What the training of SASRec with a seed says at its end; it is the same at every budget."""
    run = f"sasrec-{seed}"
    flags = (f"--seed={seed}", *(_TOY if setting.budget.is_toy else ()))
    setting.train_once(train_sasrec, CARD, run, flags)
    path = setting.folder / "runs" / run / "eval" / "test" / "eval.json"
    return artifacts.load_json(path, TRAIN)


def recommender(setting: Setting, seed: int) -> SasRec:
    """The trained model."""
    run = evaluated(setting, seed)["run"]
    return SasRec.load(setting.folder, run, setting.sequences)


def training(setting: Setting, seed: int) -> dict[str, Any]:
    """How it was trained, for tables that have other measures of it than scores."""
    found = evaluated(setting, seed)
    return {name: found[name] for name in ("run", "step", "training", "commit")}


def row(setting: Setting, seed: int) -> dict[str, Any]:
    """A row of a table of scores, as `Setting.tiger` returns it."""
    return seed_row(evaluated(setting, seed), seed, _FACTS)
