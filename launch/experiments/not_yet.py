"""Experiments that are named and not written yet; each goes when its own module comes."""

from launch.experiments.experiment import Experiment
from launch.experiments.setting import DATASETS
from tiger_jax.artifacts import InputError


def _not_yet(name: str, title: str, datasets: tuple[str, ...] = DATASETS) -> Experiment:
    def run(setting):
        raise InputError(f"{name}: not written yet; --list shows what is")

    return Experiment(name, title, datasets, "not written yet", run, lambda results: "")


_BEAUTY = ("beauty",)
TABLES_1_TO_5 = (
    _not_yet("table1", "Table 1: sequential recommendation"),
    _not_yet("table2", "Table 2: ways of making IDs"),
    _not_yet("table3", "Table 3: diversity by temperature", _BEAUTY),
    _not_yet("table4", "Table 4: categories by temperature", _BEAUTY),
    _not_yet("table5", "Table 5: layers", _BEAUTY),
)
TABLES_7_TO_10 = (
    _not_yet("table7", "Table 7: the leak of IDs in order of appearance"),
    _not_yet("table8", "Table 8: user tokens", _BEAUTY),
    _not_yet("table9", "Table 9: three seeds"),
    _not_yet("table10", "Table 10: IDs of three datasets joined", _BEAUTY),
)
OTHERS = (
    _not_yet("id_shapes", "Longer IDs: six levels of 64 codes (appendix E)", _BEAUTY),
    _not_yet("figure4", "Figure 4: categories by code", _BEAUTY),
    _not_yet("figure5", "Figure 5: cold start", _BEAUTY),
    _not_yet("figure6", "Figure 6: invalid IDs"),
)
OURS = (
    _not_yet("infrequent", "Infrequent items (the paper's contribution 3)"),
    _not_yet("beyond", "Beyond the paper: TIGER, SASRec, counting, and their fusions"),
)
