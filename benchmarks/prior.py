"""What a prior along the trie costs the search.

    python -m benchmarks.prior --json

Both search the same histories in turn, round after round, so that whatever else the machine does
falls on both; figures are medians. The prior of each request is Q random items: its values do not
change what is computed.
"""

import jax
import numpy as np

from benchmarks.decoding import catalogue, histories, race
from benchmarks.record import record
from benchmarks.training import SIZES, paper_model
from tiger_jax import artifacts, command_line, mesh
from tiger_jax.model import beam
from tiger_jax.model.prior import Prior
from tiger_jax.semantic_ids.trie import Trie

_EXAMPLES = """
python -m benchmarks.prior --json
python -m benchmarks.prior --shapes=64x20 --prior_items=64 --rounds=5
"""


def benchmark(
    items: int = 12_101,
    shapes: str = "64x20,64x50",
    prior_items: int = 256,
    rounds: int = 20,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Time of a search with a prior over that of the plain one, by shape.

    Args:
      items: size of the generated catalogue.
      shapes: users x beams.
      prior_items: Q, items with a probability, of each request.
      rounds: searches of each.
      seed: of the catalogue, the parameters, the histories and the prior.
      output: a file for the result, besides.
    """
    model = paper_model("float32")
    params = jax.device_put(model.init(jax.random.key(seed)))
    semantic_ids_NI = catalogue(items, seed)
    trie = jax.device_put(Trie.from_semantic_ids(semantic_ids_NI, SIZES))
    random = np.random.default_rng(seed)
    result = {"by_shape": {}}
    for shape in shapes.split(","):
        num_users, num_beams = map(int, shape.split("x"))
        tokens_BS = histories(model, semantic_ids_NI, num_users, seed)
        prior = Prior(
            semantic_ids_NI[random.integers(1, items + 1, (num_users, prior_items))],
            random.dirichlet(np.ones(prior_items), num_users).astype(np.float32),
            np.full(num_users, 0.5, np.float32),
        )
        contestants = {
            "plain": _search(model, params, trie, num_beams, None),
            "prior": _search(model, params, trie, num_beams, prior),
        }
        seconds, cpu_seconds = race(contestants, tokens_BS, rounds, rounds)
        entry = {
            "ratio": np.median(seconds["prior"]) / np.median(seconds["plain"]),
            "ratio_of_pairs": np.median(np.divide(seconds["prior"], seconds["plain"])),
            "cpu_ratio": np.median(cpu_seconds["prior"]) / np.median(cpu_seconds["plain"]),
            "plain_s": np.median(seconds["plain"]),
        }
        entry = {name: float(value) for name, value in entry.items()}
        print(f"{shape}: {entry}", flush=True)
        result["by_shape"][shape] = {**entry, "seconds": seconds, "cpu_seconds": cpu_seconds}
    result |= {
        "items": items,
        "prior_items": prior_items,
        "rounds": rounds,
        "seed": seed,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    if output:
        record(output, result)
    return result


def _search(model, params, trie: Trie, num_beams: int, prior: Prior | None):
    search = jax.jit(
        lambda params, trie, tokens_BS, prior: beam.constrained_search(
            model, params, trie, tokens_BS, num_beams, "full", prior=prior
        )
    )
    return lambda tokens_BS: jax.device_get(search(params, trie, tokens_BS, prior))


def main(argv=None):
    """Runs the benchmark from the command line."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.prior import main

    main()
