"""Recommendations of a trained model for one history, with titles.

The verb alone; who answers is `recommender.py`.
"""

import pathlib

import numpy as np

from tiger_jax import command_line
from tiger_jax import fusion as fusions
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.recommender import Recommender

_EXAMPLES = """
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA,B004ZT0SSG
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA --num_results=5 --json
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA --temperature=2,1,1,1
python -m tiger_jax.recommend --folder=work/beauty --run=tiger --history=B004756YJA --fusion=counts
"""  # noqa: E501


def recommend(
    folder: str,
    run: str,
    history: str = "",
    user: str = "",
    num_results: int = 10,
    exclude_history: bool = True,
    num_beams: int = 30,
    search: str = "constrained",
    temperature: str = "",
    seed: int = 0,
    step: int | None = None,
    fusion: str = "",
) -> dict:
    """Prints the items that a trained model expects after a history, best first.

    Args:
      folder: the prepared folder.
      run: name of the run in it, made by tiger_jax.train.
      history: raw item ids, oldest first, separated by commas; unknown ones are skipped. If not
        given, what the prepared data holds of the user.
      user: raw user id; if not given, the model is told nothing of the user, and where there is no
        history either, the first user of the prepared data stands in.
      num_results: number of items.
      exclude_history: leaves out the items of the history.
      num_beams: width of the search.
      search: constrained, free, free_filtered or prefix_match; see `Recommender`.
      temperature: draws items instead of taking the best; one number, or one for each part of an
        ID, separated by commas: 2,1,1,1 varies what kind of item it is (TIGER section 4.3).
      seed: of the draws.
      step: checkpoint of the run; the best one by validation if not given.
      fusion: name of a choice of tiger_jax.fuse: the run and its parts together, which know neither
        temperature nor invalid IDs. The run alone if empty.
    """
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    recommender = Recommender.load(folder, run, step, sequences, num_beams=num_beams, search=search)
    rows = content.load_items(folder, sequences)
    titles = [None, *(row["title"] for row in rows)]

    if history:
        raw_ids = [raw_id.strip() for raw_id in history.split(",") if raw_id.strip()]
    else:
        user = user or sequences.user_ids[0]
        raw_ids = _stored_history(sequences, user)
    unknown = [raw_id for raw_id in raw_ids if raw_id not in sequences.item_number]
    items = [sequences.item_number[raw_id] for raw_id in raw_ids if raw_id not in unknown]
    users = [user] if user else None
    answerer = recommender
    if fusion:
        answerer = fusions.load(folder, run, fusion, recommender, sequences)
    ranked = answerer.recommend(
        users,
        [items],
        num_results,
        exclude_history,
        temperature=_temperatures(temperature),
        seed=seed,
    )
    results = [
        {"item_id": sequences.item_ids[item], "title": titles[item], "score": float(score)}
        for item, score in zip(ranked.item_numbers[0], ranked.scores[0], strict=True)
        if np.isfinite(score)
    ]

    who = f"user {user}, " if user else ""
    print(f"{run}, step {recommender.step}; {who}history of {len(items)} items:")
    for item in items:
        print(f"     {sequences.item_ids[item]}  {titles[item] or '(no title)'}")
    if unknown:
        print(f"{len(unknown)} unknown ids skipped: {', '.join(unknown[:10])}")
    print("recommended, " + ("best first:" if fusion else "with log p in nats:"))
    for rank, row in enumerate(results, start=1):
        title = row["title"] or ("(no title)" if row["item_id"] else "(invalid ID)")
        print(f"{rank:>4} {row['item_id']}  {title}  {row['score']:.3f}")
    return {
        "history": [sequences.item_ids[item] for item in items],
        "unknown": unknown,
        "step": recommender.step,
        "results": results,
    }


def _stored_history(sequences: Sequences, user: str) -> list[str]:
    """Raw ids of all the items of a user of the prepared data."""
    if user not in sequences.user_ids:
        raise InputError(f"user {user!r} is not in the prepared data; give a --history")
    return [sequences.item_ids[item] for item in sequences.sequence(sequences.user_ids.index(user))]


def _temperatures(text: str) -> float | list[float] | None:
    """What --temperature says."""
    if not text:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--temperature={text}: give numbers separated by commas") from error
    return values if len(values) > 1 else values[0]


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(recommend, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.recommend import main

    main()
