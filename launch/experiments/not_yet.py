"""Experiments that are named and not written yet; each goes when its own module comes."""

from launch.experiments.experiment import Experiment
from launch.experiments.setting import DATASETS
from tiger_jax.artifacts import InputError


def _not_yet(name: str, title: str, datasets: tuple[str, ...] = DATASETS) -> Experiment:
    def run(setting):
        raise InputError(f"{name}: not written yet; --list shows what is")

    return Experiment(name, title, datasets, "not written yet", run, lambda results: "")


_BEAUTY = ("beauty",)
TABLE3 = _not_yet("table3", "Table 3: diversity by temperature", _BEAUTY)
TABLE4 = _not_yet("table4", "Table 4: categories by temperature", _BEAUTY)
FIGURE5 = _not_yet("figure5", "Figure 5: cold start", _BEAUTY)
BEYOND = _not_yet("beyond", "Beyond the paper: TIGER, SASRec, counting, and their fusions")
