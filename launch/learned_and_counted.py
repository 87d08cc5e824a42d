"""What a trained model has not learnt that counts know, and the other way round.

    python -m launch.learned_and_counted --folder=work/beauty_minilm --run=tiger \\
        --output=results/learned_and_counted.json

Counts with content are pushed down the trie: the probability of a prefix is that of all items
below it, so that -log p of each part of the target's ID stands beside the model's own loss. By
what the target is to the history and by its frequency: that loss, and how often either finds it
among ten. On validation users, history left out, with the mixture that was chosen on them.
"""

import pathlib

import jax
import numpy as np

from benchmarks.record import record
from tiger_jax import artifacts, baselines, command_line, metrics, saved_run
from tiger_jax.baselines import CountsWithContent, Histories
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.model.model import shift_right
from tiger_jax.recommender import Recommender

_EXAMPLES = """
python -m launch.learned_and_counted --folder=work/beauty_minilm --run=tiger
"""

_AT_ONCE = 256
_TOP = 10
# Training interactions of the target: up to 5, up to 10, ...
_FREQUENCIES = (5, 10, 20, 50)
_DISTANCE = 3
_RELATIONS = ("with the last item", "with older ones only", "with none")


def decompose(
    folder: str,
    run: str,
    num_users: int = 4096,
    num_beams: int = 50,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Losses by part of the ID, and hits, of a run and of counts with content.

    Args:
      folder: the prepared folder.
      run: name of the run in it.
      num_users: size of a random sample of validation users; 0 for all.
      num_beams: width of the search.
      seed: of the sample.
      output: a file for the result, besides.
    """
    artifacts.require_seed(seed)
    sequences = Sequences.load(f"{folder}/{SEQUENCES}")
    saved_run.require_interactions(pathlib.Path(folder, "runs", run), sequences, saved_run.TRAIN)
    _, users, histories, targets = sequences.sampled_split("validation", num_users, seed)
    recommender = Recommender.load(folder, run, num_beams=num_beams)
    training = sequences.training_sequences()
    embeddings_NE, _ = content.load_embeddings(folder)
    mixture = baselines.choose_counts(sequences, embeddings_NE)
    counts = CountsWithContent(training, embeddings_NE, **mixture)

    losses = {
        "model": model_losses(recommender, users, histories, targets),
        "counts": counts_losses(counts, recommender.table.semantic_ids_NI, histories, targets),
    }
    hits = {
        name: metrics.recall_gains(metrics.target_ranks(lists, targets), _TOP)
        for name, lists in {
            "model": recommender.recommend(users, histories, _TOP),
            "counts": counts.recommend(users, histories, _TOP),
        }.items()
    }
    groups = {
        "all": {"all": np.ones(len(targets), bool)},
        "co-occurred": relations(training, sequences.num_items, histories, targets),
        "frequency": frequencies(training, sequences.num_items, targets),
    }
    result = {
        "groups": {
            kind: {
                name: _described(is_in_B, losses, hits)
                for name, is_in_B in found.items()
                if is_in_B.any()
            }
            for kind, found in groups.items()
        },
        "dataset": sequences.header["dataset"],
        "run": run,
        "step": recommender.step,
        "ids": recommender.table.header["scheme"],
        "split": "validation",
        "num_users": len(targets),
        "num_beams": num_beams,
        "mixture": mixture,
        "seed": seed,
        **artifacts.provenance(),
    }
    print(table_of(result))
    if output:
        result = record(output, result)
    return result


def model_losses(
    recommender: Recommender, users: list[str], histories: Histories, targets: np.ndarray
) -> np.ndarray:
    """-log p of each part of each target's ID, teacher-forced, nats [B, I]."""
    model = recommender.model
    targets_BI = model.vocabulary.tokens(recommender.table.semantic_ids_NI[targets])

    @jax.jit
    def losses(params, tokens_BS, targets_BI):
        states_BID = model.module.apply(
            {"params": params}, tokens_BS, shift_right(targets_BI), method="states"
        )
        return model.token_losses(params, states_BID, targets_BI)

    found = []
    for first in range(0, len(targets), _AT_ONCE):
        # The last batch is filled up: one shape.
        rows = np.resize(np.arange(first, min(first + _AT_ONCE, len(targets))), _AT_ONCE)
        tokens_BS = recommender.encoder_tokens(
            [users[row] for row in rows], [histories[row] for row in rows]
        )
        found.append(np.asarray(losses(recommender.params, tokens_BS, targets_BI[rows])))
    return np.concatenate(found)[: len(targets)]


def counts_losses(
    counts: CountsWithContent,
    semantic_ids_NI: np.ndarray,
    histories: Histories,
    targets: np.ndarray,
) -> np.ndarray:
    """The same of a distribution over items: -log of what share of a prefix's mass goes on, [B, I].

    Items of no mass at all are out of the question here: content gives some to each.
    """
    groups_IN = []
    for length in range(1, semantic_ids_NI.shape[1] + 1):
        _, group_N = np.unique(semantic_ids_NI[1:, :length], axis=0, return_inverse=True)
        groups_IN.append(group_N.reshape(-1))
    found = []
    for first in range(0, len(targets), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        probabilities_BN = counts.scores(histories[rows])[:, 1:].astype(np.float64)
        probabilities_BN /= probabilities_BN.sum(axis=1, keepdims=True)
        masses = [np.ones(len(probabilities_BN))]
        for group_N in groups_IN:
            is_below_BN = group_N == group_N[targets[rows] - 1][:, None]
            masses.append(np.where(is_below_BN, probabilities_BN, 0).sum(axis=1))
        found.append(-np.diff(np.log(masses), axis=0).T)
    return np.concatenate(found)


def relations(
    training: Histories, num_items: int, histories: Histories, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Whether the target came within three places of an item of the history in training, [B]."""
    pairs = baselines.transition_counts(training, num_items, _DISTANCE, 1.0).tocoo()
    width = num_items + 1
    rows_H, items_H = metrics.flat_histories(histories)
    is_pair_H = np.isin(
        items_H * width + targets[rows_H], pairs.row.astype(np.int64) * width + pairs.col
    )
    is_any = np.bincount(rows_H, is_pair_H, len(targets)) > 0
    is_last = is_pair_H[np.searchsorted(rows_H, np.arange(len(targets)), "right") - 1]
    return dict(zip(_RELATIONS, (is_last, is_any & ~is_last, ~is_any), strict=True))


def frequencies(training: Histories, num_items: int, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Users by the number of training interactions of their target, [B] each."""
    count_B = baselines.Popularity(training, num_items).popularity_N[targets]
    edges = (-1, *_FREQUENCIES, np.inf)
    names = [f"up to {edge}" for edge in _FREQUENCIES] + [f"above {_FREQUENCIES[-1]}"]
    return {
        name: (count_B > low) & (count_B <= high)
        for name, low, high in zip(names, edges[:-1], edges[1:], strict=True)
    }


def _described(
    is_in_B: np.ndarray, losses: dict[str, np.ndarray], hits: dict[str, np.ndarray]
) -> dict:
    found = {"num_users": int(is_in_B.sum())}
    for name in losses:
        found[name] = {
            "level_losses": losses[name][is_in_B].mean(axis=0).tolist(),
            "loss": float(losses[name][is_in_B].sum(axis=1).mean()),
            "recall@10": float(hits[name][is_in_B].mean()),
        }
    both = hits["model"][is_in_B] * hits["counts"][is_in_B]
    found["recall@10 of both"] = float(both.mean())
    return found


def table_of(result: dict) -> str:
    """What `decompose` found, as aligned text."""
    rows = [("", "users", "", "-log p", "by part of the ID", "recall@10", "both find it")]
    for kind, groups in result["groups"].items():
        for label, group in groups.items():
            for name in ("model", "counts"):
                found = group[name]
                first = name == "model"
                rows.append(
                    (
                        (f"{kind}: {label}" if kind != "all" else "all") if first else "",
                        f"{group['num_users']:,}" if first else "",
                        name,
                        f"{found['loss']:.2f}",
                        " ".join(f"{loss:.2f}" for loss in found["level_losses"]),
                        f"{found['recall@10']:.4f}",
                        f"{group['recall@10 of both']:.4f}" if first else "",
                    )
                )
    return command_line.aligned(rows)


def main(argv=None):
    """Command line."""
    command_line.run(decompose, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from launch.learned_and_counted import main

    main()
