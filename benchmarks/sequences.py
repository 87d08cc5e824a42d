"""Training on whole sequences beside training on their prefixes: the same network, the same loss.

    python -m benchmarks.sequences --folder=work/beauty --ids=rqvae --json

Both have a causal encoder. Sequences are packed into rows; of prefixes, as many of each length
group make a batch. Random batches of an epoch go through the two trainers in turn; the figures are
items predicted a second, by the clock and by processor time, medians over rounds.
"""

import dataclasses
import statistics
import time

import jax
import numpy as np
import tqdm

from benchmarks.record import record
from benchmarks.training import load, require_equal
from tiger_jax import artifacts, batching, command_line, mesh, train, train_state
from tiger_jax.data import examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.model.model import TigerModel
from tiger_jax.semantic_ids.table import SemanticIdTable

_MAX_HISTORY = 20

_EXAMPLES = """
python -m benchmarks.sequences --folder=work/beauty --ids=rqvae --json
"""


class Contestant:
    """The native trainer on one kind of examples.

    Args:
      kind: of `examples.KINDS`.
      batch_size: examples in a step, or rows of packed ones.
      num_groups: lengths of history that it is compiled for, where examples are not packed.
      seed: of the parameters and the batches.
    """

    def __init__(
        self,
        kind: str,
        model: TigerModel,
        sequences: Sequences,
        table: SemanticIdTable,
        batch_size: int,
        num_groups: int,
        seed: int,
    ):
        self.model = model
        self.examples = examples.KINDS[kind](sequences, _MAX_HISTORY)
        self.data = batching.device_data(self.examples, sequences, table, model.vocabulary)
        composition, plan = batching.planned(
            self.examples, model.vocabulary, batch_size, num_groups, seed
        )
        self.plan = plan(0)
        self.composition = dataclasses.asdict(composition)
        optimizer = train_state.adafactor(lambda step: 0.01)
        self.step_fn = train.make_step_fn(model, optimizer, composition, seed)
        self.params = model.init(jax.random.key(seed))
        self.state = train_state.TrainState.create(jax.tree.map(np.array, self.params), optimizer)

    def train(self, steps: slice) -> int:
        """Takes those steps of an epoch; the number of items predicted."""
        rows_nB = self.plan[steps]
        self.state, losses = self.step_fn(self.state, self.data, rows_nB)
        jax.block_until_ready(losses)
        num_targets = self.examples.num_targets
        rows = rows_nB[rows_nB >= 0]
        return rows.size if num_targets is None else int(num_targets[rows].sum())

    def loss_of_users(self, users: np.ndarray) -> float:
        """Mean of -log p(item) over all items of some users, nats; dropout off."""
        rows = np.flatnonzero(np.isin(self.examples.user_rows, users))
        batch = batching.assemble(self.data, rows, _MAX_HISTORY)
        loss, aux = jax.jit(lambda params, batch: self.model.loss_fn(params, batch, None))(
            self.params, batch
        )
        return float(loss / aux["num_targets"])


def benchmark(
    folder: str,
    ids: str,
    rows_per_step: int = 12,
    prefixes_per_step: int = 256,
    rounds: int = 8,
    steps_per_round: int = 5,
    dtype: str = "bfloat16",
    num_groups: int = 4,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Items predicted a second of either kind of training, and their ratio.

    Args:
      folder: a prepared folder.
      ids: name of the Semantic-ID table in it.
      rows_per_step: rows of packed sequences in a batch of the one.
      prefixes_per_step: batch of the other.
      rounds: how often each trains.
      steps_per_round: steps of each in a round.
      dtype: what products are made of.
      num_groups: lengths of history that the other is compiled for.
      seed: of the parameters and the batches.
      output: a file for the result, besides.
    """
    sequences, table, model = load(folder, ids, dtype, causal_encoder=True)
    sizes = {"sequences": rows_per_step, "prefixes": prefixes_per_step}
    contestants = {
        kind: Contestant(kind, model, sequences, table, size, num_groups, seed)
        for kind, size in sizes.items()
    }
    lengths = np.array([len(items) for items in sequences.training_sequences()])
    users = np.flatnonzero((lengths > 1) & (lengths <= _MAX_HISTORY + 1))[:32]
    losses = {kind: each.loss_of_users(users) for kind, each in contestants.items()}
    require_equal(losses, dtype)

    rates = {kind: [] for kind in contestants}
    cpu_rates = {kind: [] for kind in contestants}
    for first in tqdm.trange(0, (rounds + 1) * steps_per_round, steps_per_round, unit="round"):
        for kind, each in contestants.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            items = each.train(slice(first, first + steps_per_round))
            rates[kind].append(items / (time.perf_counter() - started))
            cpu_rates[kind].append(items / (time.process_time() - cpu_started))
    # The first round compiles.
    by_clock, by_cpu = (
        {kind: statistics.median(values[1:]) for kind, values in found.items()}
        for found in (rates, cpu_rates)
    )
    result = {
        "ratio": by_clock["sequences"] / by_clock["prefixes"],
        "cpu_ratio": by_cpu["sequences"] / by_cpu["prefixes"],
        "items_per_s": by_clock,
        "items_per_cpu_s": by_cpu,
        "losses": losses,
        "rows_per_step": rows_per_step,
        "prefixes_per_step": prefixes_per_step,
        "rounds": rounds,
        "dtype": dtype,
        "compositions": {kind: each.composition for kind, each in contestants.items()},
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    if output:
        record(output, result)
    print(
        f"{result['ratio']:.2f} times as many items a second, {result['cpu_ratio']:.2f} times by "
        "processor time"
    )
    return result


def main(argv=None):
    """Command line of the benchmark."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.sequences import main

    main()
