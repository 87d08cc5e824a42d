"""Chooses, on validation users, what a model, counts, content and SASRec weigh together.

Test items are not read. `python -m tiger_jax.eval --fusion=NAME` measures the choice.
"""

import dataclasses
import pathlib

from tiger_jax import artifacts, command_line, fusion, log_linear, metrics, saved_run
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.fusion import FusedRecommender, Fusion
from tiger_jax.log_linear import LogLinear
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender

_EXAMPLES = """
python -m tiger_jax.fuse --folder=work/beauty --run=tiger
python -m tiger_jax.eval --folder=work/beauty --run=tiger --fusion=counts
python -m tiger_jax.fuse --folder=work/beauty --run=tiger --sasrec=sasrec --name=all
"""

_NUM_RESULTS = max(metrics.CUTOFFS)
# Of the prior in the mixture that the beam follows: how many of the candidates are its own.
_PRIOR_WEIGHTS = (0.5, 0.8, 0.95)


def choose(
    folder: str,
    run: str,
    name: str = "counts",
    sasrec: str = "",
    num_users: int = 4096,
    num_beams: int = 50,
    prior_items: int = 256,
    batch_size: int = 64,
    seed: int = 0,
) -> dict:
    """The fusion that makes the validation items likeliest, histories left out.

    First the opinions of counts and content, and of SASRec where it takes part, get exponents
    without the model: the prior. Then, with the model's, all of them get others, among the
    candidates of a beam that followed both; of a few weights of the prior in what it follows, that
    with the best NDCG@10 is taken. Writes FOLDER/runs/RUN/fusions/NAME.json, with the scores on the
    same users of what each does alone.

    Args:
      folder: the prepared folder.
      run: name of a run of tiger_jax.train in it.
      name: of the choice.
      sasrec: name of a run of tiger_jax.train_sasrec in it that takes part; none if empty.
      num_users: size of a random sample of validation users; 0 for all.
      num_beams: width of the beam, and number of candidates.
      prior_items: items with a prior, of each history.
      batch_size: users in one search.
      seed: of the sample.
    """
    artifacts.require_names(name=name)
    artifacts.require_at_least(0, num_users=num_users)
    artifacts.require_seed(seed)
    artifacts.require_at_least(1, prior_items=prior_items)
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    _, users, histories, targets = sequences.sampled_split("validation", num_users, seed)
    saved_run.require_interactions(pathlib.Path(folder, "runs", run), sequences, saved_run.TRAIN)
    recommender = Recommender.load(folder, run, num_beams=num_beams, batch_size=batch_size)
    opinions = fusion.load_opinions(folder, sequences, sasrec)
    names = tuple(opinions(histories[:1]))
    prior = log_linear.choose_exponents(opinions, histories, targets, names)

    def along(prior_weight: float) -> tuple[Fusion, RankedItems, RankedItems]:
        """The fusion with that weight; its candidates in the mixture's order, and in its own."""
        first = Fusion(prior, prior_weight, prior_items, num_beams, {})
        found = FusedRecommender(recommender, opinions, first).candidates(
            users, histories, num_beams
        )
        is_target_BM = found.mixed.item_numbers == targets[:, None]
        fitted_K = log_linear.fit(found.opinions_BMK, is_target_BM, found.mixed.used)
        exponents = dict(zip(found.names, fitted_K.tolist(), strict=True))
        fused = dataclasses.replace(first, exponents=exponents)
        return fused, found.mixed, found.ranked_by(exponents)

    tried = {weight: along(weight) for weight in _PRIOR_WEIGHTS}
    ndcg = {w: metrics.values(ranked, targets)["ndcg@10"] for w, (*_, ranked) in tried.items()}
    chosen, mixed, ranked = tried[max(ndcg, key=ndcg.get)]
    alone = LogLinear(opinions, prior, sequences.num_items)
    lists = {
        "prior": alone.recommend(users, histories, _NUM_RESULTS),
        "mixture": mixed,
        "fusion": ranked,
    }
    result = {
        **dataclasses.asdict(chosen),
        "scores": {name: metrics.score(some, targets, seed) for name, some in lists.items()},
        "ndcg@10_by_prior_weight": ndcg,
        "sasrec": sasrec,
        "candidate_recall": float((mixed.item_numbers == targets[:, None]).any(axis=1).mean()),
        "num_users": len(users),
        **fusion.provenance(folder, run, recommender, sequences, sasrec),
        "seed": seed,
        **artifacts.provenance(),
    }
    path = fusion.path_of(folder, run, name)
    artifacts.save_json(path, result)
    print(table_of(result))
    print(f"wrote {path}")
    return result


def table_of(result: dict) -> str:
    """What the parts and their fusion are worth on the users they were chosen on."""
    names = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    rows = [("", *names)]
    for part, scores in result["scores"].items():
        rows.append((part, *(f"{scores[name]['value']:.4f}" for name in names)))
    exponents = ", ".join(f"{name} {value:.2f}" for name, value in result["exponents"].items())
    return (
        f"{command_line.aligned(rows)}\n"
        f"validation, {result['num_users']:,} users; prior_weight {result['prior_weight']}; "
        f"{result['candidate_recall']:.4f} of the"
        f" targets among {result['num_beams']} candidates; exponents: {exponents}"
    )


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(choose, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.fuse import main

    main()
