"""Beyond the paper: what a shop would deploy. TIGER, SASRec, counting, and their fusions."""

import dataclasses
import inspect
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from launch.experiments import sasrec
from launch.experiments.experiment import Experiment
from launch.experiments.scores import (
    HEADER,
    PRODUCT,
    SCORES,
    baseline_label,
    markdown,
    scores_table,
)
from launch.experiments.setting import DATASETS, ON_TIGER, Setting
from tiger_jax import artifacts, baselines, fuse, fusion, metrics
from tiger_jax.data import content
from tiger_jax.diversity import Categories
from tiger_jax.fusion import FusedRecommender
from tiger_jax.log_linear import LogLinear
from tiger_jax.model.model import num_parameters
from tiger_jax.recommender import Recommender
from tiger_jax.sasrec import SasRec

TIGER = "TIGER"
SASREC = sasrec.LABEL
MIXTURE = baseline_label("counts_with_content")
FUSION = "TIGER along that prior, ranked by the product of all"
EVERYONE = "the same, and SASRec"

# Whether one finds items that no training has seen.
_COLD = {
    TIGER: "by their IDs, [Figure 5](#figure-5-cold-start)",
    SASREC: "no: an embedding is learnt for each item",
    MIXTURE: "by content",
    PRODUCT: "by content",
    FUSION: "by IDs and content",
    EVERYONE: "no: SASRec knows none",
}
# Of a choice, besides the run.
_CHOSEN_BY = ("sasrec", "num_users", "num_beams", "prior_items", "seed")

_NUM_RESULTS = max(metrics.CUTOFFS)
# Users asked for at once: enough to fill TIGER's batches, which hold histories of like length.
_MANY = 1024
_TIMES = 5


@dataclasses.dataclass(frozen=True)
class _Contender:
    """One of those compared.

    Attributes:
      recommend: users, histories, number of results -> ranked items.
      parts: (number of parameters, bytes) of each thing that it holds.
      evaluation: the folder of TIGER's run whose lists are its own; empty where none are kept.
      is_trained: whether it has a seed.
    """

    recommend: Callable[..., metrics.RankedItems]
    parts: Sequence[tuple[int, int]]
    evaluation: str = ""
    is_trained: bool = True


def run(setting: Setting) -> dict:
    """Accuracy on the test split of all, weights from validation; and what each costs."""
    seed = setting.seeds[0]
    name = setting.train(seed=seed)
    plain = setting.evaluate(name)
    recommender = Recommender.load(setting.folder, name, num_beams=plain["num_beams"])
    network = sasrec.recommender(setting, seed)
    fused = {
        FUSION: _fusion(setting, recommender, name, "counts"),
        EVERYONE: _fusion(setting, recommender, name, "all", f"sasrec-{seed}"),
    }
    sequences = setting.sequences
    histories, targets = sequences.split("test")
    training = sequences.training_sequences()
    popularity_N = baselines.Popularity(training, sequences.num_items).popularity_N
    embeddings_NE, _ = content.load_embeddings(setting.folder)
    mixture = baselines.CountsWithContent(training, embeddings_NE, **plain["mixture"])
    transitions_NN = baselines.transition_counts(training, sequences.num_items)
    beside = _csr_bytes(transitions_NN) + popularity_N.nbytes
    contenders = _contenders(recommender, network, mixture, fused, beside)
    category_N = Categories.of_items(content.load_items(setting.folder)).category_N
    rows = {}
    for label, contender in contenders.items():
        if contender.evaluation:
            top = setting.lists(name, name=contender.evaluation).top(_NUM_RESULTS)
        else:
            top = contender.recommend(None, histories, _NUM_RESULTS)
        rows[label] = {
            "scores": metrics.score(top, targets),
            **({"seeds": [seed]} if contender.is_trained else {}),
            "parameters": sum(parameters for parameters, _ in contender.parts),
            "bytes": sum(num_bytes for _, num_bytes in contender.parts),
            "distinct_items": metrics.distinct_items(top, _NUM_RESULTS),
            "entropy@10": metrics.category_entropy(top, category_N, _NUM_RESULTS),
            "mean_popularity": float(popularity_N[top.item_numbers[top.used]].mean()),
            "ms_alone": _milliseconds(contender.recommend, sequences.user_ids, histories, 1),
            "ms_each_of_many": _milliseconds(
                contender.recommend, sequences.user_ids, histories, _MANY
            ),
        }
    rows[SASREC]["runs"] = [sasrec.training(setting, seed)]
    chosen = {label: dataclasses.asdict(one.fusion) for label, one in fused.items()}
    return {"rows": rows, "run": name, "fusions": chosen}


def _contenders(
    recommender: Recommender,
    network: SasRec,
    mixture: baselines.CountsWithContent,
    fused: Mapping[str, FusedRecommender],
    bytes_beside: int,
) -> dict[str, _Contender]:
    """Those compared, by label: each single part, then the fusions.

    Args:
      recommender: TIGER.
      network: SASRec.
      mixture: counts with content.
      fused: by label, `FUSION` and `EVERYONE`.
      bytes_beside: of what the product counts besides what the mixture does.
    """
    along_counts = fused[FUSION]
    product = LogLinear(along_counts.opinions, along_counts.fusion.prior, mixture.num_items)
    tiger = _size(recommender.params, recommender.trie)
    of_sasrec = _size(network.params)
    cosines = mixture.cosines
    counts = _csr_bytes(mixture.counts_NN)
    counts += cosines.centred_NE.nbytes + cosines.directions_NE.nbytes
    multiplied = (0, counts + bytes_beside)
    together = fused[EVERYONE].recommend
    return {
        TIGER: _Contender(recommender.recommend, [tiger], "test"),
        SASREC: _Contender(network.recommend, [of_sasrec]),
        MIXTURE: _Contender(mixture.recommend, [(0, counts)], is_trained=False),
        PRODUCT: _Contender(product.recommend, [multiplied], is_trained=False),
        FUSION: _Contender(along_counts.recommend, [tiger, multiplied], "test_fusion_counts"),
        EVERYONE: _Contender(together, [tiger, multiplied, of_sasrec], "test_fusion_all"),
    }


def _fusion(
    setting: Setting, recommender: Recommender, run_name: str, name: str, of_sasrec: str = ""
) -> FusedRecommender:
    """A fusion, chosen on validation and measured on test where it has not been yet.

    Raises:
      InputError: one of that name is there that was chosen in another way.
    """
    small = {"num_beams": 20, "num_users": 64} if setting.budget.is_toy else {}
    wanted = inspect.signature(fuse.choose).bind("", run_name, name, of_sasrec, **small)
    wanted.apply_defaults()
    path = fusion.path_of(setting.folder, run_name, name)
    if not path.is_file():
        fuse.choose(str(setting.folder), run_name, name, of_sasrec, **small)
    saved = artifacts.load_json(path, "python -m tiger_jax.fuse", _CHOSEN_BY)
    artifacts.require_same(
        f"{path}: was chosen",
        {part: saved[part] for part in _CHOSEN_BY},
        {part: wanted.arguments[part] for part in _CHOSEN_BY},
        "remove it to choose again",
    )
    found = setting.evaluate(run_name, f"--fusion={name}", name=f"test_fusion_{name}")
    fused = fusion.load(setting.folder, run_name, name, recommender, setting.sequences)
    if found["fused_by"] != dataclasses.asdict(fused.fusion):
        raise artifacts.InputError(
            f"{run_name}: evaluated with another fusion {name} than is there now; remove its "
            f"eval/test_fusion_{name}"
        )
    return fused


def _size(params: dict, *others) -> tuple[int, int]:
    """Number of parameters; bytes of them and what else is held."""
    return num_parameters(params), sum(leaf.nbytes for leaf in jax.tree.leaves((params, others)))


def _csr_bytes(matrix) -> int:
    return sum(part.nbytes for part in (matrix.data, matrix.indices, matrix.indptr))


def _milliseconds(answer: Callable, user_ids, histories, num_users: int) -> float:
    """Median time a user of an answer to so many at once, compiled before."""
    users, their = user_ids[:num_users], histories[:num_users]
    seconds = []
    for _ in range(_TIMES + 1):
        started = time.perf_counter()
        answer(users, their, _NUM_RESULTS)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[1:]) / len(their)


def show(results: list[dict[str, Any]]) -> str:
    """Accuracy of all, then what each costs."""
    header = ["", "dataset", "parameters", "memory, MB", "ms, 1 user", f"ms a user of {_MANY:,}"]
    header += ["items@10", "entropy@10, bits", "training interactions of an item, mean"]
    header += ["new items"]
    rows = [
        [
            label,
            result["dataset"],
            f"{row['parameters']:,}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['ms_alone']:.1f}",
            f"{row['ms_each_of_many']:.2f}",
            f"{row['distinct_items']:,}",
            f"{row['entropy@10']:.2f}",
            f"{row['mean_popularity']:.1f}",
            _COLD[label],
        ]
        for result in results
        for label, row in result["values"]["rows"].items()
    ]
    weights = [
        f"* {result['dataset']}, {result['budget']}, {label}, {chosen['prior_weight']:g} of the "
        "beam's mixture the prior's: "
        + ", ".join(f"{name} {value:.2f}" for name, value in chosen["exponents"].items())
        for result in results
        for label, chosen in result["values"]["fusions"].items()
    ]
    return (
        f"{ON_TIGER} Weights were chosen on validation users alone (`python -m tiger_jax.fuse`). "
        "Where the prior's share of the beam's mixture is not 0.5, it was chosen so as well; that "
        "it is chosen at all was decided after test figures of Toys had been seen (docs/log.md). "
        "Histories are left out.\n\n"
        + scores_table(results)
        + "\n\n"
        + " ".join(map(_verdict, results))
        + "\n\n"
        + markdown(header, rows)
        + f"\n\nMilliseconds are medians of {_TIMES} in one process each, on machines that others "
        "use as well: they tell orders of magnitude. What a prior along the trie costs the search "
        "was measured side by side (results/prior_cpu.json, `python -m benchmarks.prior`); the "
        "rest of a fusion is counting, and SASRec where it takes part. How TIGER finds new items "
        "was measured in Figure 5 alone, the others' answers follow from what they are made of."
        + "\n\nExponents in the last ranking: of log p by the model, log of the share of "
        "co-occurrences + 0.01 (co_occurrence), cosine (content), log of 1 + training interactions "
        "(popularity), log of 1 + how often the item came right after the last one (transitions), "
        "and log p by SASRec:\n\n" + "\n".join(weights)
    )


def _verdict(result: dict[str, Any]) -> str:
    """By which scores the largest fusion is above each of its parts alone."""
    rows = result["values"]["rows"]
    parts = [rows[label]["scores"] for label in (TIGER, SASREC, MIXTURE, PRODUCT)]
    fused = rows[EVERYONE]["scores"]

    def ahead(ours: str, theirs: str) -> str:
        titles = [
            title
            for name, title in zip(SCORES, HEADER, strict=True)
            if fused[name][ours] > max(part[name][theirs] for part in parts)
        ]
        return ", ".join(titles) or "none"

    return (
        f"{result['dataset'].capitalize()}: the fusion with SASRec is above every part alone by "
        f"{ahead('value', 'value')}; without overlap of the intervals by {ahead('low', 'high')}."
    )


EXPERIMENT = Experiment(
    name="beyond",
    title="Beyond the paper: TIGER, SASRec, counting, and their fusions",
    datasets=DATASETS,
    cost="1 training of TIGER and of SASRec a dataset, and minutes",
    run=run,
    show=show,
    most_seeds=1,
)
