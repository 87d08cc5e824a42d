"""Verb 4: checkpoint -> ranked items -> Recall and NDCG, beside baselines that need no training.

One search a user; the metrics with and without the history's items come from the same lists.
Targets are seen by the scorer alone.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import tqdm

from tiger_jax import artifacts, baselines, command_line, mesh, metrics, saved_run
from tiger_jax import fusion as fusions
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender
from tiger_jax.report import eval as report

_EXAMPLES = """
python -m tiger_jax.eval --folder=work/beauty --run=tiger
python -m tiger_jax.eval --folder=work/beauty --run=tiger --search=free --json
python -m tiger_jax.eval --folder=work/beauty --run=tiger --split=validation --num_users=2000
python -m tiger_jax.eval --folder=work/beauty --run=tiger --fusion=counts
"""

_NUM_RESULTS = max(metrics.CUTOFFS)
_TRAINING_FACTS = ("seed", "batch_size", "normalize", "network", "table")
_NEWER_FACTS = ("order_noise", "teacher_weight", "imagined_users", "soft_targets")
_NEWER_FACTS += ("num_user_tokens", "train_on")
# Between two movements of the progress bar.
_SEARCHES_AT_ONCE = 8


def evaluate(
    folder: str,
    run: str,
    split: str = "test",
    search: str = "constrained",
    exclude_history: bool = True,
    num_beams: int = 50,
    batch_size: int = 64,
    num_users: int = 0,
    fusion: str = "",
    seed: int = 0,
) -> dict:
    """Recall@5, NDCG@5, Recall@10 and NDCG@10 of a run, item level, over the full catalogue.

    Writes ranked_items.npz (the lists, history items included), eval.json and report.html to
    FOLDER/runs/RUN/eval/<what was evaluated>, such as eval/test or eval/validation_free_2000_users:
    the split, a search that is not constrained, a fusion, a history that is kept, a sample of
    users. Speed counts the compilation of the search.

    Args:
      folder: the prepared folder.
      run: name of the run in it, made by tiger_jax.train or as a MODEL_DIR of T5X.
      split: test, or validation (where the baselines' mixture and the checkpoint were chosen).
      search: constrained, IDs of items only; free, an invalid ID is a miss, as in the paper;
        free_filtered, a wider beam until enough IDs are valid; prefix_match, an invalid ID
        stands for an item that shares its longest prefix.
      exclude_history: which of the two scores is the result; both are reported, of a run alone.
      num_beams: width of the beam, and length of a user's list before the history is removed.
      batch_size: users in one search; as many as memory allows are fastest on an accelerator.
      num_users: size of a random sample of users; 0 for all.
      fusion: name of a choice of tiger_jax.fuse: the lists are those of the run and its parts
        together, without the history, as they were chosen. The run alone if empty.
      seed: of the sample and of the bootstrap.
    """
    artifacts.require_seed(seed)
    if num_beams < _NUM_RESULTS or batch_size < 1 or num_users < 0:
        raise artifacts.InputError(
            f"num_beams={num_beams}, batch_size={batch_size}, num_users={num_users}: choose at "
            f"least {_NUM_RESULTS} beams, 1 user in a batch and 0 users"
        )
    if fusion and not exclude_history:
        raise artifacts.InputError(
            f"fusion={fusion}: its lists leave the history out; evaluate the run alone with "
            "exclude_history=false"
        )
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    saved_run.require_interactions(pathlib.Path(folder, "runs", run), sequences, saved_run.TRAIN)
    rows, users, histories, targets = sequences.sampled_split(split, num_users, seed)
    recommender = Recommender.load(
        folder, run, num_beams=num_beams, search=search, batch_size=batch_size
    )
    recommend = recommender.recommend
    fused_by = {}
    if fusion:
        fused = fusions.load(folder, run, fusion, recommender, sequences)
        recommend, fused_by = fused.recommend, dataclasses.asdict(fused.fusion)
    table = recommender.table
    titles = [content.label(row) for row in content.load_items(folder)]

    start = time.perf_counter()
    users_at_once = _SEARCHES_AT_ONCE * batch_size
    ranked = rank_users(recommend, users, histories, num_beams, users_at_once, bool(fusion))
    seconds = time.perf_counter() - start
    without_history = ranked.without(histories)
    lists = without_history if exclude_history else ranked
    scores = {"without_history_items": metrics.score(without_history, targets, seed)}
    if not fusion:
        scores["with_history_items"] = metrics.score(ranked, targets, seed)

    mixture, recommenders = make_baselines(folder, sequences, table.semantic_ids_NI)
    baseline_scores = {}
    for name, baseline in recommenders.items():
        others = baseline.recommend(users, histories, _NUM_RESULTS, exclude_history)
        baseline_scores[name] = metrics.score(others, targets, seed)

    result = {
        **scores["without_history_items" if exclude_history else "with_history_items"],
        "num_users": len(users),
        "split": split,
        "search": search,
        "fusion": fusion,
        "fused_by": fused_by,
        "exclude_history": exclude_history,
        "baselines": baseline_scores,
        **scores,
        "invalid_id_rate": metrics.invalid_id_rate(ranked, _NUM_RESULTS),
        "distinct_items": metrics.distinct_items(lists, _NUM_RESULTS),
        "mixture": mixture,
        "dataset": sequences.header["dataset"],
        "run": run,
        "step": recommender.step,
        "training": saved_run.training_facts(
            pathlib.Path(folder, "runs", run), _TRAINING_FACTS, _NEWER_FACTS
        ),
        "ids": table.header["scheme"],
        "encoder": content.encoder_name(table.header["encoder"]),
        "text_fields": table.header["text_fields"],
        "num_beams": num_beams,
        "seed": seed,
        "seconds": seconds,
        "users_per_s": len(users) / seconds,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    parts = [
        split,
        *([search] if search != "constrained" else []),
        *([f"fusion_{fusion}"] if fusion else []),
        *([] if exclude_history else ["history_kept"]),
        *([f"{len(users)}_users"] if len(users) < sequences.num_users else []),
    ]
    target_folder = pathlib.Path(folder, "runs", run, "eval", "_".join(parts))
    facts = ("dataset", "run", "step", "split", "search", "num_beams", "commit")
    artifacts.save_arrays(
        target_folder / "ranked_items.npz",
        "ranked_items",
        {name: result[name] for name in facts} | {"sequences": sequences.checksum()},
        user_rows=rows,
        item_numbers=ranked.item_numbers,
        scores=ranked.scores,
    )
    artifacts.save_json(target_folder / "eval.json", result)
    report.write(target_folder / "report.html", result, sequences, titles, rows, lists)
    print(table_of(result))
    print(f"wrote {target_folder}: eval.json, ranked_items.npz, report.html")
    return result


def rank_users(
    recommend: Callable[..., RankedItems],
    users: Sequence[str],
    histories: Sequence[np.ndarray],
    num_beams: int,
    users_at_once: int,
    exclude_history: bool = False,
) -> RankedItems:
    """One list a user, [U, R], history kept: long enough to lose it, if the beam allows.

    Users with histories of like length come together: few get a longer list than they need.
    """
    order = np.argsort([len(history) for history in histories], kind="stable")
    longest = len(histories[order[-1]])
    shape = (len(users), min(num_beams, _NUM_RESULTS + longest))
    item_numbers, scores = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
    with tqdm.tqdm(total=len(users), unit="user", dynamic_ncols=True) as progress:
        for first in range(0, len(users), users_at_once):
            rows = order[first : first + users_at_once]
            num_results = min(num_beams, _NUM_RESULTS + len(histories[rows[-1]]))
            ranked = recommend(
                [users[row] for row in rows],
                [histories[row] for row in rows],
                num_results,
                exclude_history=exclude_history,
            )
            item_numbers[rows, :num_results] = ranked.item_numbers
            scores[rows, :num_results] = ranked.scores
            progress.update(len(rows))
    return RankedItems(item_numbers, scores)


def make_baselines(
    folder: str, sequences: Sequences, semantic_ids_NI: np.ndarray
) -> tuple[dict[str, float], dict[str, baselines.Baseline]]:
    """The mixture's weights, chosen on validation users, and all baselines by name.

    They count training sequences alone, for either split. Only the last prefix depends on how
    the Semantic IDs were made, and nothing on how a model was trained.
    """
    training = sequences.training_sequences()
    embeddings_NE, _ = content.load_embeddings(folder)
    mixture = baselines.choose_counts(sequences, embeddings_NE)
    return mixture, {
        "popularity": baselines.Popularity(training, sequences.num_items),
        "last_prefix": baselines.LastPrefix(training, semantic_ids_NI),
        "item_to_item": baselines.ItemToItem(training, sequences.num_items),
        "content_neighbours": baselines.ContentNeighbours(embeddings_NE),
        "counts_with_content": baselines.CountsWithContent(training, embeddings_NE, **mixture),
    }


def table_of(result: dict) -> str:
    """What `evaluate` found, as aligned text; 95 % intervals in brackets."""
    names = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    kept, removed = "history kept", "history removed"
    who = report.contender(result)
    protocol = removed if result["exclude_history"] else kept
    rows = [
        *(
            (f"{who}, {history}", result[scores])
            for history, scores in (
                (removed, "without_history_items"),
                (kept, "with_history_items"),
            )
            if scores in result
        ),
        *((name.replace("_", " "), scores) for name, scores in result["baselines"].items()),
    ]
    table = [("", *names)]
    for name, scores in rows:
        cells = (scores[metric] for metric in names)
        table.append(
            (name, *("{value:.4f} [{low:.4f} {high:.4f}]".format(**cell) for cell in cells))
        )
    made_of = f" of {', '.join(result['text_fields'])}" if result["text_fields"] else ""
    lines = [
        f"{result['dataset']}, {result['split']} split, {result['num_users']:,} users; "
        f"step {result['step']}, {result['search']} search, {result['num_beams']} beams, "
        f"{result['users_per_s']:.1f} users/s",
        f"IDs: {result['ids']}, from {result['encoder']}{made_of}; "
        f"invalid: {result['invalid_id_rate']:.2%}; baselines: {protocol}",
        command_line.aligned(table),
    ]
    return "\n".join(lines)


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(evaluate, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.eval import main

    main()
