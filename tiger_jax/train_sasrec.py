"""Verb: sequences -> a SASRec run, the strong baseline, scored beside TIGER's runs.

The loop, from top to bottom. What the network and its loss are stands in sasrec.py.
"""

import dataclasses
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from tiger_jax import artifacts, checkpoints, command_line, mesh, metrics, saved_run
from tiger_jax.data import examples
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.run_log import RunLog
from tiger_jax.sasrec import (
    MODEL,
    TRAIN,
    SasRec,
    SasRecConfig,
    SasRecNetwork,
    init,
    item_losses,
    padded,
)
from tiger_jax.train_state import TrainState, cosine_schedule
from tiger_jax.validation import sampled_users

_EXAMPLES = """
python -m tiger_jax.train_sasrec --gin_file=gin/dataset/beauty_minilm.gin --gin_file=gin/baseline/sasrec.gin
python -m tiger_jax.train_sasrec --folder=work/beauty --gin_file=gin/baseline/sasrec.gin --seed=1 --run=sasrec-1
"""  # noqa: E501

_DEEPEST = max(metrics.CUTOFFS)
# Length of the lists that a run leaves, history items included.
_NUM_RESULTS = 50


def train_sasrec(
    folder: str,
    run: str,
    network: SasRecConfig,
    learning_rate: float,
    weight_decay: float,
    num_epochs: int,
    batch_size: int,
    seed: int,
    eval_users: int = 0,
    num_groups: int = 4,
    configuration: str = "",
) -> dict:
    """Trains SASRec with a softmax over the catalogue and scores its best epoch on the test split.

    Every item of a training sequence but its first is a target, or the latest `max_history` of
    them. Each epoch ends with a line in FOLDER/runs/RUN/metrics.jsonl and a checkpoint; the best
    one by validation NDCG@10, history removed, stays. Started again, it goes on behind the last
    whole epoch, to the same parameters bit by bit. At the end FOLDER/runs/RUN/eval/test holds
    eval.json and ranked_items.npz, as tiger_jax.eval leaves them.

    Args:
      folder: the prepared folder, made by tiger_jax.prepare; only its sequences are read.
      run: name of the run; results go to FOLDER/runs/RUN.
      network: sizes of the network.
      learning_rate: Adam's at the start; it falls to 0 along a cosine, by the last epoch.
      weight_decay: AdamW's, in units of the learning rate.
      num_epochs: passes over the training sequences.
      batch_size: sequences in a step.
      seed: of the parameters, the order of sequences and the dropout.
      eval_users: size of the fixed sample of users validated on; 0 for all.
      num_groups: lengths of sequences that the step is compiled for.
      configuration: gin text saved beside the results.
    """
    artifacts.require_names(run=run)
    artifacts.require_at_least(
        1, num_epochs=num_epochs, batch_size=batch_size, num_groups=num_groups
    )
    artifacts.require_at_least(0, eval_users=eval_users)
    artifacts.require_seed(seed)
    # --- Data ---
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    inputs_US, targets_US, lengths_U = training_rows(sequences, network.max_history)
    groups = examples.length_groups(lengths_U, batch_size, num_groups)
    data = jnp.asarray(inputs_US), jnp.asarray(targets_US)
    plan = functools.partial(examples.epoch_plan, lengths_U, groups, seed)
    steps_per_epoch = len(plan(0))

    # --- Model and optimizer ---
    schedule = cosine_schedule(learning_rate, 0, num_epochs * steps_per_epoch)
    optimizer = optax.adamw(schedule, weight_decay=weight_decay)
    key, dropout_key = jax.random.split(jax.random.key(seed))
    state = TrainState.create(init(network, sequences.num_items, key), optimizer)
    epoch_fn = make_epoch_fn(network, sequences.num_items, optimizer, groups)

    # --- Resume ---
    run_folder = pathlib.Path(folder, "runs", run)
    settings = {
        "model": MODEL,
        "sequences": sequences.checksum(),
        "interactions": sequences.interactions_checksum(),
        "items_checksum": sequences.header["items_checksum"],
        "network": dataclasses.asdict(network),
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "num_groups": num_groups,
        "eval_users": eval_users,
        "seed": seed,
    }
    untold = {name: settings[name] for name in ("interactions", "eval_users")}
    saved_run.claim(run_folder, settings, configuration, TRAIN, untold)
    checkpoint_folder = run_folder / "checkpoints"
    best, seconds = {"step": 0, "ndcg@10": -1.0}, 0.0
    saved_steps = checkpoints.steps(checkpoint_folder)
    if saved_steps:
        state = state.restored(checkpoint_folder, saved_steps[-1])
        metadata = checkpoints.load_metadata(checkpoint_folder, saved_steps[-1])
        best, seconds = metadata["best"], metadata["seconds"]
        # What a run killed behind its last checkpoint did not come to.
        checkpoints.keep(checkpoint_folder, {saved_steps[-1], best["step"]})
    log = RunLog(run_folder, int(state.step))

    # --- Loop ---
    _, histories, targets = sampled_users(sequences, eval_users)
    recommender = SasRec(network, state.params, sequences.num_items)
    started = time.monotonic()
    for epoch in tqdm.trange(int(state.step) // steps_per_epoch, num_epochs, unit="epoch"):
        began = time.monotonic()
        state, losses = epoch_fn(state, data, plan(epoch), dropout_key)
        train_loss = float(np.mean(losses))
        steps_per_s = steps_per_epoch / (time.monotonic() - began)
        if not np.isfinite(train_loss):
            raise artifacts.InputError(
                f"the loss is not finite in epoch {epoch + 1}; {checkpoint_folder} keeps the last "
                "sound one; lower the learning rate"
            )
        # --- Validate, log, save ---
        recommender = recommender.with_params(state.params)
        ranked = recommender.recommend(None, histories, _DEEPEST, exclude_history=True)
        validation = metrics.values(ranked, targets)
        step = int(state.step)
        if validation["ndcg@10"] > best["ndcg@10"]:
            best = {"step": step, "ndcg@10": validation["ndcg@10"]}
        metadata = {"best": best, "seconds": seconds + time.monotonic() - started}
        row = {"step": step, "epoch": epoch + 1, "train_loss": train_loss, **validation}
        log.append(row, metadata["seconds"], steps_per_s)
        checkpoints.save_beside_best(
            checkpoint_folder, step, state.params, state.opt_state, metadata
        )

    # --- Test ---
    best_params = checkpoints.load_params(checkpoint_folder, best["step"], state.params)
    facts = {
        "run": run,
        "dataset": sequences.header["dataset"],
        "parameters": sum(parameter.size for parameter in jax.tree.leaves(state.params)),
        "training": {"steps": int(state.step), "seconds": metadata["seconds"], **settings},
    }
    return _score(
        run_folder, recommender.with_params(best_params, best["step"]), sequences, facts, seed
    )


def training_rows(
    sequences: Sequences, max_history: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training sequences as inputs and the item that follows each; users with one item have none.

    Returns:
      Inputs and targets, int32 [U, S], the latest `max_history` pairs from the left, 0 behind
      them; and their number, [U].

    Raises:
      InputError: nobody has two items to train on.
    """
    training = [items for items in sequences.training_sequences() if len(items) > 1]
    if not training:
        raise artifacts.InputError(
            "no user has more than one item to train on; prepare data with longer histories"
        )
    inputs_US, _ = padded([items[:-1] for items in training], max_history)
    targets_US, lengths_U = padded([items[1:] for items in training], max_history)
    return inputs_US, targets_US, lengths_U


def make_epoch_fn(
    config: SasRecConfig,
    num_items: int,
    optimizer: optax.GradientTransformation,
    groups: examples.LengthGroups,
):
    """The compiled epoch: (state, (inputs, targets), rows [n, B], key) -> (state, losses [n]).

    All n steps are one call. The loss is the mean of -log p(item) over the targets of a batch, in
    nats; the state's memory is reused.
    """
    network = SasRecNetwork(config, num_items)
    bounds = np.cumsum((0, *groups.sizes))

    def loss_fn(params, data, rows_B, key):
        inputs_US, targets_US = data
        states, targets = [], []
        for index, capacity in enumerate(groups.capacities):
            rows = rows_B[bounds[index] : bounds[index + 1]]
            states_BSD = network.apply(
                {"params": params},
                inputs_US[rows, :capacity],
                training=True,
                rngs={"dropout": jax.random.fold_in(key, index)},
            )
            states.append(states_BSD.reshape(-1, config.width))
            targets.append(targets_US[rows, :capacity].reshape(-1))
        targets_X = jnp.concatenate(targets)
        losses_X = item_losses(params, jnp.concatenate(states), targets_X)
        return losses_X.sum() / jnp.sum(targets_X > 0)

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch_fn(state, data, rows_nB, key):
        def step(state, rows_B):
            step_key = jax.random.fold_in(key, state.step)
            loss, gradients = jax.value_and_grad(loss_fn)(state.params, data, rows_B, step_key)
            return state.apply_gradients(gradients, optimizer), loss

        return jax.lax.scan(step, state, rows_nB)

    return epoch_fn


def _score(
    run_folder: pathlib.Path, recommender: SasRec, sequences: Sequences, facts: dict, seed: int
) -> dict:
    """Ranks the items for every user of the test split; what `tiger_jax.eval` says of a run."""
    histories, targets = sequences.split("test")
    start = time.perf_counter()
    ranked = recommender.recommend(None, histories, _NUM_RESULTS, exclude_history=False)
    seconds = time.perf_counter() - start
    without_history = recommender.recommend(None, histories, _DEEPEST, exclude_history=True)
    without_history_items = metrics.score(without_history, targets, seed)
    result = {
        **without_history_items,
        "num_users": len(targets),
        "split": "test",
        "exclude_history": True,
        "with_history_items": metrics.score(ranked, targets, seed),
        "without_history_items": without_history_items,
        "distinct_items": metrics.distinct_items(without_history, _DEEPEST),
        **facts,
        "step": recommender.step,
        "seed": seed,
        "users_per_s": len(targets) / seconds,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    target_folder = run_folder / "eval" / "test"
    named = ("dataset", "run", "step", "split", "commit")
    artifacts.save_arrays(
        target_folder / "ranked_items.npz",
        "ranked_items",
        {name: result[name] for name in named} | {"sequences": sequences.checksum()},
        user_rows=np.arange(len(targets)),
        item_numbers=ranked.item_numbers,
        scores=ranked.scores,
    )
    artifacts.save_json(target_folder / "eval.json", result)
    scores = " ".join(f"{name} {result[name]['value']:.4f}" for name in without_history_items)
    print(f"{run_folder}: best at step {recommender.step}; test, history removed: {scores}")
    return result


def main(argv=None):
    """The command line."""
    command_line.run(train_sasrec, argv, _EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.train_sasrec import main

    main()
