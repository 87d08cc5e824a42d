"""Figure 5: cold start. Items that no training has seen, found by their codes and their content."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch import plots
from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown, seeds_text
from launch.experiments.setting import ON_TEACHERS, Setting
from tiger_jax import artifacts, cold_start, paper
from tiger_jax.baselines import ContentNeighbours
from tiger_jax.cold_start import Catalogue, Found, Rule, Wanted
from tiger_jax.data import content, hold_out
from tiger_jax.data.hold_out import HoldOut
from tiger_jax.data.sequences import SEQUENCES
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids import quantizer
from tiger_jax.semantic_ids.quantizer import Quantizer

_SHARE = 0.05  # TIGER section 4.3
_EPSILON = 0.1  # Figure 5a
_K = 10  # Figure 5b
_CUTOFFS = (5, 10, 15, 20)
_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # epsilons in the table; all are in the picture
_NUM_RESULTS = 50
# How many of the users with seen targets, who are twenty times the others; 0 for all.
_NUM_OTHERS = {"validation": 2000, "test": 0}
_KIND = "cold start lists"

_KNN = "Semantic_KNN"
_SETTINGS = {
    cold_start.THREE_CODES: (),
    cold_start.SHORTER_PREFIXES: ("penalty", "bonus"),
    cold_start.OWN_IDS: ("bonus",),
    cold_start.LIKE_CONTENT: ("temperature", "history_weight", "bonus"),
}
_RULES = """Lists of K hold at most floor(epsilon K) unseen items, so none of 5 at epsilon = 0.1;
columns "rounded up" allow ceil(epsilon K). Who gets in, and where, is by score. Seen items have the
model's log p. Unseen ones:

* three codes, the paper's rule: right behind a predicted item with the same three codes;
* shorter prefixes: the score of a predicted item with the same first codes, less a penalty a level;
* own IDs: the model's log p of their own IDs, which are in the trie;
* like content: the score of a predicted item, or of one of the history at 0.6^age, less
  (1 - cosine) / temperature.

All but the paper's get a bonus. Settings are chosen on validation, for the unseen items held out
there: most Recall@10 on them, as the mean over epsilon, of those that cost all users at most 2 % at
any."""
_GROUPS = {"unseen": "users whose target is unseen", "all": "all users"}


def run(setting: Setting) -> dict:
    """Trains without the unseen items, chooses each rule on validation, measures it on test."""
    share = 0.2 if setting.budget.is_toy else _SHARE
    held_out = HoldOut.draw(setting.sequences, share, seed=0)
    cold = _of_seen_items(setting, held_out)
    ids = cold.content_ids()
    runs = []
    for seed in setting.seeds:
        name = cold.train(ids, seed=seed)
        validation, test = (
            _found(cold, ids, name, held_out, split, setting.folder)
            for split in ("validation", "test")
        )
        chosen = [validation.choose(rules) for rules in cold_start.RULES.values()]
        neighbours = _neighbours(setting, held_out, test)
        runs.append({"seed": seed, "ids": ids, **_measured(test, chosen, neighbours)})
    return {
        "share": share,
        "epsilon": _EPSILON,
        "k": _K,
        "table": cold.tables[ids],
        "runs": runs,
    }


def _of_seen_items(setting: Setting, held_out: HoldOut) -> Setting:
    """The setting with a folder that lacks the unseen items, which is made if it is not there."""
    folder = f"{setting.planned_folder}_seen"
    cold = Setting(
        setting.dataset, dataclasses.replace(setting.budget, folder=folder), setting.seeds
    )
    cold.trained = setting.trained
    if not (cold.planned_folder / SEQUENCES).is_file():
        hold_out.write(held_out, setting.folder, cold.planned_folder)
    embeddings_NE, _ = content.load_embeddings(setting.folder)
    cold_SE, _ = content.load_embeddings(cold.folder)
    is_same = cold.sequences.checksum() == held_out.seen_sequences().checksum()
    if not is_same or not content.are_alike(cold_SE, embeddings_NE[held_out.seen - 1]):
        raise artifacts.InputError(
            f"{folder}: was made from other data than {setting.folder}; remove it"
        )
    return cold


def _found(
    cold: Setting,
    ids: str,
    run_name: str,
    held_out: HoldOut,
    split: str,
    folder: pathlib.Path,
) -> Found:
    """What the model finds for the users of a split; searched for once."""
    wanted = Wanted.of(held_out, split, _NUM_OTHERS[split], seed=0)
    embeddings_NE = content.load_embeddings(folder)[0][held_out.catalogue(split) - 1]
    table = cold.table(ids)
    ids_folder = cold.folder / "ids" / ids
    frozen = Quantizer.load(ids_folder / quantizer.FILE, table.header["parameters_checksum"])
    unseen_UE = embeddings_NE[wanted.num_seen :]
    # Room for either split's catalogue, so that both searches are one program.
    capacity = wanted.num_seen + max(map(len, held_out.unseen.values()))
    recommender = Recommender.load(cold.folder, run_name, num_beams=_NUM_RESULTS, capacity=capacity)
    recommender = cold_start.with_new_items(recommender, frozen, unseen_UE)
    grown = recommender.table
    codes_NL = grown.semantic_ids_NI[1:, : grown.num_levels]
    catalogue = Catalogue.of(codes_NL, embeddings_NE, wanted.num_seen)

    path = cold.folder / "runs" / run_name / f"cold_start_{split}.npz"
    header = {"step": recommender.step, "table": grown.checksum(), "users": len(wanted.users)}
    if path.is_file():
        made_from, arrays = artifacts.load_arrays(path, _KIND, "python -m launch.reproduce figure5")
        if made_from == {"kind": _KIND, **header}:
            lists = (
                RankedItems(arrays[f"{name}_items"], arrays[f"{name}_scores"])
                for name in ("seen", "own")
            )
            return Found(wanted, catalogue, *lists)
    found = Found.search(recommender, wanted, catalogue, min(_NUM_RESULTS, grown.num_items))
    artifacts.save_arrays(
        path,
        _KIND,
        header,
        seen_items=found.seen.item_numbers,
        seen_scores=found.seen.scores,
        own_items=found.own.item_numbers,
        own_scores=found.own.scores,
    )
    return found


def _neighbours(setting: Setting, held_out: HoldOut, test: Found) -> RankedItems:
    """Semantic_KNN over the whole catalogue, the unseen items among it as any others."""
    embeddings_NE = content.load_embeddings(setting.folder)[0][held_out.catalogue("test") - 1]
    histories = test.wanted.histories
    neighbours = ContentNeighbours(embeddings_NE)
    return neighbours.recommend(None, histories, max(_CUTOFFS), exclude_history=True)


def _measured(test: Found, rules: Sequence[Rule], neighbours: RankedItems) -> dict[str, Any]:
    """Recall of every rule over K and over epsilon, on all users and on those of unseen targets."""
    wanted = test.wanted

    def recall(ranked: RankedItems, k: int) -> dict:
        return wanted.means(wanted.gains(ranked, k))

    rows = {_KNN: {"by_k": {str(k): recall(neighbours, k) for k in _CUTOFFS}}}
    of_neighbours = wanted.gains(neighbours, _K)
    for rule in rules:
        unseen = test.unseen(rule)
        ahead = wanted.gains(test.ranked(unseen, _K, _EPSILON), _K) - of_neighbours
        rows[rule.name] = {
            "settings": {name: getattr(rule, name) for name in _SETTINGS[rule.name]},
            "by_k": {str(k): recall(test.ranked(unseen, k, _EPSILON), k) for k in _CUTOFFS},
            "by_k_rounded_up": {
                str(k): recall(test.ranked(unseen, k, _EPSILON, round_up=True), k) for k in _CUTOFFS
            },
            "by_epsilon": {
                str(share): recall(test.ranked(unseen, _K, share), _K)
                for share in cold_start.SHARES
            },
            "ahead_of_knn": wanted.means(ahead),
        }
    is_unseen = wanted.targets > wanted.num_seen
    return {
        "rows": rows,
        "longest_prefix": test.catalogue.share_by_longest_prefix(),
        "items": {"seen": wanted.num_seen, "unseen": test.catalogue.shared_SU.shape[1]},
        "users": {"all": len(is_unseen), "unseen": int(is_unseen.sum())},
    }


def show(results: list[dict]) -> str:
    """What shares codes, the rules, and Figure 5's two panels as tables."""
    trained = [run for result in results for run in result["trained"].values()]
    taught = any(run["teacher_weight"] for run in trained)
    return "\n\n".join([*([ON_TEACHERS] if taught else []), *map(_section, results)])


def _section(result: dict) -> str:
    runs = result["values"]["runs"]
    first = runs[0]
    shares = [np.mean([run["longest_prefix"][n] for run in runs]) for n in (3, 2, 1, 0)]
    items, users = first["items"], first["users"]
    lines = [
        f"**{result['dataset'].capitalize()}**, budget {result['budget']}, "
        f"{seeds_text(result['seeds'])}. {result['values']['share']:.0%} of the distinct test "
        f"items, {items['unseen']:,}, are in no training sequence, no history and no training of "
        f"the RQ-VAE ({items['seen']:,} seen items); as many validation items are held out for "
        f"choosing the rules and are no part of this catalogue. {users['unseen']:,} of "
        f"{users['all']:,} users want an unseen item; those who want an item held out for "
        "validation are left out. Of the unseen items "
        "{:.1%} share three codes with a seen one, {:.1%} two, {:.1%} one, {:.1%} none.".format(
            *shares
        ),
        _RULES,
        *(_chosen(run, len(runs) > 1) for run in runs),
        "The paper says: " + "; ".join(paper.numbers()["figure5"]["claims"]) + ". At epsilon = "
        f"{_EPSILON} and K = {_K}, ahead of {_KNN} here (± half the 95 % interval over the users, "
        "in all tables below; here of the paired difference):",
        markdown(
            ["", *_GROUPS.values()],
            [
                [name, *(_ahead(runs, name, group) for group in _GROUPS)]
                for name in list(first["rows"])[1:]
            ],
        ),
        _verdict(runs, shares[0]),
    ]
    columns = [(f"K = {k}", "by_k", str(k)) for k in _CUTOFFS] + [
        (f"K = {k}, limit rounded up", "by_k_rounded_up", str(k)) for k in (5, 15)
    ]
    for group, whose in _GROUPS.items():
        rows = [
            [name, *(_cell(runs, name, part, key, group) for _, part, key in columns)]
            for name in first["rows"]
        ]
        title = f"Recall@K, epsilon = {result['values']['epsilon']}, {whose} (Figure 5a):"
        lines += [title, markdown(["", *(label for label, *_ in columns)], rows)]
    lines.append(f"![Recall@K over K](pictures/{_picture(result, 'by_k')})")
    for group, whose in _GROUPS.items():
        rows = [
            [name, *(f"{_mean(runs, name, 'by_epsilon', str(e), group)[0]:.4f}" for e in _SHOWN)]
            for name in first["rows"]
        ]
        title = f"Recall@10 over epsilon, {whose} (Figure 5b):"
        lines += [title, markdown(["", *map(str, _SHOWN)], rows)]
    lines.append(f"![Recall@10 over epsilon](pictures/{_picture(result, 'by_epsilon')})")
    return "\n\n".join(lines)


def _verdict(runs: list[dict], share_with_three_codes: float) -> str:
    """For users with unseen targets: where each rule is above Semantic_KNN, and what bounds it."""

    def above(name: str) -> str:
        ks = [
            k
            for k in _CUTOFFS
            if _mean(runs, name, "by_k", str(k), "unseen")[0]
            > _mean(runs, _KNN, "by_k", str(k), "unseen")[0]
        ]
        return f"{name} at K = {', '.join(map(str, ks))}" if ks else f"{name} nowhere"

    names = list(runs[0]["rows"])[1:]
    none = [k for k in _CUTOFFS if not cold_start.most_unseen(_EPSILON, k)]
    return (
        f"Recall@K of unseen targets is above that of {_KNN} with {'; '.join(map(above, names))} "
        f"(epsilon = {_EPSILON}; by the means, whatever their intervals). At K = "
        f"{', '.join(map(str, none))} no list may hold an unseen item, so that none can. The "
        f"paper's rule cannot find the {1 - share_with_three_codes:.1%} of the unseen items that "
        "share three codes with no seen one, which is why others report 0.0 for it with as large "
        "codebooks."
    )


def _chosen(run: dict, is_one_of_several: bool) -> str:
    """The rules that were chosen on validation for a seed's model."""
    whose = f" for seed {run['seed']}" if is_one_of_several else ""
    return f"Chosen{whose}: {'; '.join(_settings(run, n) for n in list(run['rows'])[2:])}."


def _settings(run: dict, name: str) -> str:
    settings = run["rows"][name]["settings"]
    return f"{name} " + ", ".join(f"{what} {value:g}" for what, value in settings.items())


def _ahead(runs: list[dict], name: str, group: str) -> str:
    cells = [run["rows"][name]["ahead_of_knn"][group] for run in runs]
    value, error = (np.mean([cell[what] for cell in cells]) for what in ("value", "error"))
    return f"{value:+.4f} ± {error:.4f}"


def _cell(runs: list[dict], name: str, part: str, key: str, group: str) -> str:
    """Mean over the seeds; Semantic_KNN knows no epsilon and no rounding."""
    value, error = _mean(runs, name, part, key, group)
    return f"{value:.4f} ± {error:.4f}"


def _mean(runs: list[dict], name: str, part: str, key: str, group: str) -> tuple[float, float]:
    if name == _KNN:
        part, key = "by_k", str(_K) if part == "by_epsilon" else key
    cells = [run["rows"][name][part][key][group] for run in runs]
    return tuple(float(np.mean([cell[what] for cell in cells])) for what in ("value", "error"))


def draw(results: list[dict], folder: pathlib.Path) -> None:
    """Figure 5a and 5b, each for both groups of users."""
    for result in results:
        runs = result["values"]["runs"]
        for part, keys, x_label in (
            ("by_k", _CUTOFFS, f"K, at epsilon = {_EPSILON}"),
            ("by_epsilon", cold_start.SHARES, f"epsilon, at K = {_K}"),
        ):
            panels = {
                whose: {
                    name: (keys, [_mean(runs, name, part, str(key), group)[0] for key in keys])
                    for name in runs[0]["rows"]
                }
                for group, whose in _GROUPS.items()
            }
            plots.lines(folder / _picture(result, part), panels, x_label, "Recall@K")


def _picture(result: dict, part: str) -> str:
    return f"figure5_{part}_{result['dataset']}_{result['budget']}.png"


EXPERIMENT = Experiment(
    name="figure5",
    title="Figure 5: cold start",
    datasets=("beauty",),
    cost="IDs and 1 training a seed, without the unseen items",
    run=run,
    show=show,
    draw=draw,
)
