"""Whether t5x.infer and tiger_jax.eval rank alike: the same checkpoint, the same users.

    python -m benchmarks.t5x_agreement --folder=work/beauty --run=t5x --infer=work/t5x_infer/FILE

FILE is what t5x.infer wrote, over all users of the folder's test split; tiger_jax.eval came before,
with as many beams. Items may differ where scores lie within 1e-5 of each other.
"""

import json
import pathlib

import numpy as np

from tiger_jax import artifacts, command_line
from tiger_jax.data.sequences import Sequences

TOLERANCE = 1e-5


def compare(folder: str, run: str, infer: str, out: str = "") -> dict:
    """Compares the ranked items of both, place by place.

    Args:
      folder: the prepared folder.
      run: name of the run in it.
      infer: the file that t5x.infer wrote.
      out: JSON file to write; none if empty.
    """
    path = pathlib.Path(folder, "runs", run, "eval", "test", "ranked_items.npz")
    _, ranked = artifacts.load_arrays(path, "ranked_items", "python -m tiger_jax.eval")
    sequences = Sequences.load(pathlib.Path(folder, "sequences.npz"))
    item_ids = np.array(sequences.item_ids)
    rows = [json.loads(line) for line in pathlib.Path(infer).read_text().splitlines()]
    users = [sequences.user_ids[row] for row in ranked["user_rows"]]
    if [row["user"] for row in rows] != users:
        raise artifacts.InputError(
            f"{infer}: of other users than {path}, {len(rows)} and {len(users)}; evaluate the same "
            "with both, in the same order"
        )
    differing, unexplained, furthest = 0, 0, 0.0
    for row, items, scores in zip(rows, ranked["item_numbers"], ranked["scores"], strict=True):
        width = min(len(row["items"]), int(np.isfinite(scores).sum()))
        theirs, scores = np.array(row["scores"])[:width], scores[:width]
        furthest = max(furthest, float(np.abs(theirs - scores).max()))
        for place in np.flatnonzero(item_ids[items[:width]] != row["items"][:width]):
            differing += 1
            # The item at the list's end may have its equal behind it.
            gaps = np.abs(np.delete(scores, place) - scores[place])
            unexplained += bool(gaps.min() > TOLERANCE and place < width - 1)
    result = {
        "users": len(rows),
        "places": int(np.isfinite(ranked["scores"]).sum()),
        "other_item": differing,
        "other_item_and_no_score_within_tolerance": unexplained,
        "largest_difference_of_scores": furthest,
        "tolerance": TOLERANCE,
        **artifacts.provenance(),
    }
    if out:
        artifacts.save_json(out, result)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    command_line.run(compare)
