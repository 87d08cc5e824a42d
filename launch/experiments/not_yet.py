"""Experiments that are named and not written yet; each goes when its own module comes."""

from launch.experiments.experiment import Experiment
from launch.experiments.setting import DATASETS
from tiger_jax.artifacts import InputError


def _not_yet(name: str, title: str, datasets: tuple[str, ...] = DATASETS) -> Experiment:
    def run(setting):
        raise InputError(f"{name}: not written yet; --list shows what is")

    return Experiment(name, title, datasets, "not written yet", run, lambda results: "")


BEYOND = _not_yet("beyond", "Beyond the paper: TIGER, SASRec, counting, and their fusions")
