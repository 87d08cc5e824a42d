"""Verb 3: Semantic-ID table + item sequences -> TIGER checkpoints.

The loop, from top to bottom. What the loss is stands in model/model.py, which examples there are
in data/examples.py.
"""

import dataclasses
import functools
import pathlib
import time

import jax
import numpy as np
import optax
import tqdm

from tiger_jax import (
    artifacts,
    batching,
    checkpoints,
    command_line,
    mesh,
    saved_run,
    train_state,
)
from tiger_jax.data import content, examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.model.model import TigerModel, num_parameters
from tiger_jax.model.network import NetworkConfig
from tiger_jax.report import train as report
from tiger_jax.run_log import RunLog
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.train_state import TrainState
from tiger_jax.validation import make_validation, summary
from tiger_jax.vocabulary import Vocabulary

_EXAMPLES = """
python -m tiger_jax.train --gin_file=gin/experiment/beauty_cpu.gin
python -m tiger_jax.train --gin_file=gin/experiment/beauty_cpu.gin --run=long --gin.TRAIN_STEPS=20000
"""  # noqa: E501

# Where the updates of two optimizers tell them, and their schedules, apart.
_PROBED_STEPS = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
# Settings that older runs do not tell: what they had is taken to be what it is now.
_UNTOLD = ("interactions", "optimizer", "eval_users", "num_beams", "imagined_users")
# What runs did that are older than these settings.
_OLDER = {
    "group_multiple": 1,
    "train_on": "prefixes",
    "order_noise": 0.0,
    "teacher_weight": 0.0,
    "soft_targets": "",
    "packed": False,
    "network": {
        field.name: field.default
        for field in dataclasses.fields(NetworkConfig)
        if field.default is not dataclasses.MISSING
    },
}


def train(
    folder: str,
    ids: str,
    run: str,
    network: NetworkConfig,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int,
    max_history: int,
    num_user_tokens: int,
    seed: int,
    normalize: str = "full",
    train_on: str = "prefixes",
    order_noise: float = 0.0,
    teacher_weight: float = 0.0,
    imagined_users: int = 0,
    eval_period: int = 500,
    eval_users: int = 2000,
    num_beams: int = 30,
    num_groups: int = 4,
    steps_per_call: int = 10,
    data_parts: int = 1,
    model_parts: int = 1,
    group_multiple: int = 0,
    processes: str = "",
    configuration: str = "",
) -> dict:
    """Trains TIGER on a prepared folder and keeps the best checkpoint by validation NDCG@10.

    Every validation adds to FOLDER/runs/RUN: a line to metrics.jsonl, the same as an event for
    TensorBoard, what the clock said to timing.jsonl, and report.html with the curves so far.
    Started again, it goes on from its last checkpoint, to the same parameters bit by bit.

    Args:
      folder: the prepared folder, made by tiger_jax.prepare.
      ids: name of the Semantic-ID table in it, made by tiger_jax.make_ids.
      run: name of the run; results go to FOLDER/runs/RUN.
      network: sizes of the network.
      optimizer: an optax optimizer; it sees the mean over a step's items of -log p(item).
      num_steps: training steps in all.
      batch_size: examples in a step; with sequences, rows of as many tokens as the longest has,
        each filled with several.
      max_history: items of a history that the model sees, the latest ones.
      num_user_tokens: size of the hashed user space; 0 for a model that knows no users.
      seed: of the parameters, the order of examples and the dropout.
      normalize: "full", softmax over the vocabulary; "level", over the tokens of a level.
      train_on: prefixes, a history is encoded for each item to predict; sequences, once for all
        items of a sequence: the same loss for a fraction of the work, with a causal encoder.
      order_noise: the items of an example change places, by another chance each time: they stand in
        the order of their places plus normal noise of this standard deviation. Dates are days, so
        that much of the order is chance to begin with.
      teacher_weight: share of the loss that goes to what counts and content expect in the place of
        the next item (tiger_jax.teach), rather than to the item that came; 0 for no teacher.
      imagined_users: how many the teacher was to imagine; soft targets with others are refused.
        Without a teacher there are none.
      eval_period: steps between validations; each leaves a checkpoint.
      eval_users: size of the fixed sample of users validated on; 0 for all.
      num_beams: width of the validation's beam.
      num_groups: lengths of history that the step is compiled for; sequences need no such groups.
      steps_per_call: training steps in one call of the compiled program.
      data_parts: groups of devices that share each batch.
      model_parts: devices of a group that share each parameter; divides heads, vocab and mlp_dim.
      group_multiple: examples of one length come in multiples of it, which data_parts divides; 0
        for data_parts. Runs with equal ones see equal batches, whatever their devices.
      processes: auto on TPU VMs and Slurm, else HOST:PORT,COUNT,INDEX with the address of process
        0; empty for one process. All see FOLDER; the first alone writes to it.
      configuration: gin text saved beside the results.
    """
    artifacts.require_names(run=run, ids=ids)
    artifacts.require_at_least(1, num_steps=num_steps, batch_size=batch_size, num_groups=num_groups)
    artifacts.require_at_least(1, max_history=max_history, num_beams=num_beams)
    artifacts.require_at_least(1, eval_period=eval_period, steps_per_call=steps_per_call)
    artifacts.require_at_least(0, num_user_tokens=num_user_tokens, eval_users=eval_users)
    artifacts.require_at_least(0, group_multiple=group_multiple)
    artifacts.require_seed(seed)

    # --- Devices ---
    mesh.join(processes)
    devices = mesh.make(data_parts, model_parts, network)
    group_multiple = group_multiple or data_parts
    if group_multiple % data_parts or batch_size % group_multiple:
        raise artifacts.InputError(
            f"group_multiple={group_multiple}: {data_parts} data parts must divide it, and it the "
            f"batch_size of {batch_size}"
        )
    writes = jax.process_index() == 0

    # --- Data ---
    sequences = Sequences.load(pathlib.Path(folder, "sequences.npz"))
    table = SemanticIdTable.load(
        pathlib.Path(folder, "ids", ids, "semantic_ids.npz"), sequences.header["items_checksum"]
    )
    made_from = table.header.get("interactions_checksum")
    if made_from not in (None, sequences.interactions_checksum()):
        raise artifacts.InputError(
            f"ids={ids}: they tell which items came together in other interactions than {folder} "
            "holds now; make them again with python -m tiger_jax.make_ids"
        )
    _require_whole_calls(steps_per_call, num_steps=num_steps, eval_period=eval_period)
    if imagined_users and not teacher_weight:
        print(
            f"TEACHER_WEIGHT is 0: this training is without the {imagined_users:,} imagined users"
        )
    if not 0 <= order_noise < np.inf:
        raise artifacts.InputError(f"order_noise is {order_noise}; give 0 or more items")
    artifacts.require_shares(teacher_weight=teacher_weight)
    if teacher_weight and order_noise:
        raise artifacts.InputError(
            f"teacher_weight={teacher_weight}, order_noise={order_noise}: the teacher knows the "
            "items in their own order alone; give 0 for one of both"
        )
    soft_targets = None
    if teacher_weight:
        _, source = content.load_embeddings(folder)
        soft_targets = SoftTargets.load(folder, sequences, source["checksum"])
        soft_targets.require_imagined_users(imagined_users)
    imagined = soft_targets.imagined if soft_targets else ()
    training = examples.of(sequences, train_on, max_history, network.causal_encoder, imagined)
    vocab = Vocabulary(table.codebook_sizes, num_user_tokens)
    composition, plan = batching.planned(
        training, vocab, batch_size, num_groups, seed, group_multiple
    )

    # --- Model and optimizer ---
    model = TigerModel(network, vocab, normalize)
    train_state.require_rate_to_the_end(optimizer, num_steps)
    state = TrainState.create(model.init(jax.random.key(seed)), optimizer)
    step_fn = make_step_fn(
        model, optimizer, composition, seed, devices, order_noise, teacher_weight
    )
    data = mesh.put(
        batching.device_data(training, sequences, table, vocab, soft_targets),
        mesh.everywhere(devices),
    )

    # --- Resume ---
    run_folder = pathlib.Path(folder, "runs", run)
    settings = {
        "ids": ids,
        "table": table.checksum(),
        "sequences": sequences.checksum(),
        "interactions": sequences.interactions_checksum(),
        "optimizer": [f"{size:.3g}" for size in train_state.update_sizes(optimizer, _PROBED_STEPS)],
        "network": dataclasses.asdict(network),
        "normalize": normalize,
        "train_on": train_on,
        "order_noise": order_noise,
        "teacher_weight": teacher_weight,
        "soft_targets": soft_targets.checksum() if soft_targets else "",
        "imagined_users": len(imagined),
        "packed": isinstance(composition, examples.Packing),
        "num_user_tokens": num_user_tokens,
        "max_history": max_history,
        "batch_size": batch_size,
        "num_groups": num_groups,
        "group_multiple": group_multiple,
        "eval_users": eval_users,
        "num_beams": num_beams,
        "seed": seed,
    }
    if writes:
        older = _OLDER | {name: settings[name] for name in _UNTOLD}
        saved_run.claim(run_folder, settings, configuration, saved_run.TRAIN, older)
    metadata = {"best": {"step": 0, "ndcg@10": -1.0}, "seconds": 0.0}
    saved_steps = checkpoints.steps(run_folder / "checkpoints")
    if saved_steps:
        state = state.restored(run_folder / "checkpoints", saved_steps[-1])
        metadata = checkpoints.load_metadata(run_folder / "checkpoints", saved_steps[-1])
        _require_whole_calls(steps_per_call, **{"the last checkpoint's step": saved_steps[-1]})
    best, seconds = metadata["best"], metadata["seconds"]
    if saved_steps and writes:
        # What a run killed at its last step did not come to.
        checkpoints.keep(run_folder / "checkpoints", {saved_steps[-1], best["step"]})
    mesh.require_agreement(int(state.step), "checkpoints")
    log = RunLog(run_folder, int(state.step)) if writes else None
    state = mesh.put(state, mesh.state_shardings(devices, model, state))

    # --- Loop ---
    plan = functools.lru_cache(2)(plan)
    batches_per_epoch = len(plan(0))
    facts = {
        "dataset": sequences.header["dataset"],
        "ids": ids,
        "num_steps": num_steps,
        "batch_size": round(np.count_nonzero(plan(0) >= 0) / batches_per_epoch),
        "parameters": num_parameters(state.params),
        "num_eval_users": min(eval_users or sequences.num_users, sequences.num_users),
        "num_beams": num_beams,
    }
    if writes and log.rows and int(state.step) >= num_steps:
        # A run that was killed behind its last checkpoint lacks it, and validates no more.
        report.write(run_folder / "report.html", run, table, log.rows, log.timings, facts)
    validate = make_validation(model, table, sequences, max_history, eval_users, num_beams)
    progress = tqdm.tqdm(
        total=num_steps,
        initial=int(state.step),
        unit="step",
        dynamic_ncols=True,
        disable=not writes,
    )
    saving = checkpoints.Background()
    losses = []
    seconds_in_steps = 0.0
    started = time.monotonic()
    for first in range(int(state.step), num_steps, steps_per_call):
        rows = batching.batch_rows(plan, batches_per_epoch, first, steps_per_call)
        called = time.monotonic()
        state, level_losses = step_fn(state, data, rows)
        # The clock stops when the steps are taken, not when they are asked for.
        losses.append(np.asarray(level_losses).mean(axis=0))
        seconds_in_steps += time.monotonic() - called
        progress.update(steps_per_call)
        progress.set_postfix_str("loss " + " ".join(f"{loss:.2f}" for loss in losses[-1]))
        step = first + steps_per_call
        if not np.all(np.isfinite(losses[-1])):
            saving.wait()
            raise artifacts.InputError(
                f"the loss is not finite at step {step}; {run_folder / 'checkpoints'} keeps "
                f"{_names(checkpoints.steps(run_folder / 'checkpoints'))}; lower the learning rate"
            )
        if step % eval_period and step < num_steps:
            continue
        # --- Once in a while: validate, log, save ---
        host_state = mesh.to_host(state, devices)
        validation = validate(host_state.params)
        if validation["ndcg@10"] > best["ndcg@10"]:
            best = {"step": step, "ndcg@10": validation["ndcg@10"]}
        train_losses = np.mean(losses, axis=0).tolist()
        metadata = {"best": best, "seconds": seconds + time.monotonic() - started}
        steps_per_s = len(losses) * steps_per_call / seconds_in_steps
        losses, seconds_in_steps = [], 0.0
        if not writes:
            continue
        log.append(
            {"step": step, "train_losses": train_losses, **validation},
            metadata["seconds"],
            steps_per_s,
        )
        progress.write(summary(step, train_losses, validation))
        saving.start(
            functools.partial(
                checkpoints.save_beside_best,
                run_folder / "checkpoints",
                step,
                host_state.params,
                host_state.opt_state,
                metadata,
            )
        )
        report.write(run_folder / "report.html", run, table, log.rows, log.timings, facts)
    saving.wait()
    progress.close()
    if writes:
        at = f"step {best['step']}, ndcg@10 {best['ndcg@10']:.4f}"
        print(f"{run_folder}: best checkpoint at {at}")
    return {
        "run": str(run_folder),
        "steps": int(state.step),
        "parameters": num_parameters(state.params),
        **metadata,
    }


def make_step_fn(
    model: TigerModel,
    optimizer: optax.GradientTransformation,
    composition: examples.LengthGroups | examples.Packing,
    seed: int,
    devices: jax.sharding.Mesh | None = None,
    order_noise: float = 0.0,
    teacher_weight: float = 0.0,
):
    """The compiled update: (state, data, rows [n, B]) -> (state, level losses [n, I]).

    One call takes n steps without a word to the host. The state's memory is reused. The loss is
    the mean over the batch's items of -log p(item); level losses are its parts, in nats. The
    devices share each part of the batch (`batching.parts`); where None there is one. `order_noise`
    as in `batching.assemble`, `teacher_weight` as in `batching.taught`.
    """
    devices = devices or mesh.make(1, 1, model.config)

    def loss_fn(params, data, rows_B, key):
        total, level_losses, num_targets = 0.0, 0.0, 0
        parts = batching.parts(data, composition, rows_B, order_noise, key)
        for index, batch in enumerate(parts):
            batch = jax.lax.with_sharding_constraint(batch, mesh.shared_by_data(devices))
            part_key = jax.random.fold_in(key, index)
            if teacher_weight:
                batch = batching.taught(
                    batch, data, teacher_weight, jax.random.fold_in(part_key, 1)
                )
            loss, aux = model.loss_fn(params, batch, part_key)
            total += loss
            level_losses += aux["level_losses"]
            num_targets += aux["num_targets"]
        return total / num_targets, level_losses / num_targets

    @functools.partial(jax.jit, donate_argnums=0)
    def step_fn(state, data, rows_nB):
        def step(state, rows_B):
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            gradients, level_losses = jax.grad(loss_fn, has_aux=True)(
                state.params, data, rows_B, key
            )
            return state.apply_gradients(gradients, optimizer), level_losses

        shardings = mesh.state_shardings(devices, model, state)
        state, level_losses_nI = jax.lax.scan(step, state, rows_nB)
        return (
            jax.lax.with_sharding_constraint(state, shardings),
            jax.lax.with_sharding_constraint(level_losses_nI, mesh.everywhere(devices)),
        )

    return step_fn


def _require_whole_calls(steps_per_call: int, **periods: int) -> None:
    """A resumed run repeats the calls of an undisturbed one only if all start at the same steps."""
    for name, period in periods.items():
        if period % steps_per_call:
            raise artifacts.InputError(
                f"{name} is {period}, no multiple of steps_per_call, {steps_per_call}; change one"
            )


def _names(steps: list[int]) -> str:
    return ", ".join(f"checkpoint_{step}" for step in steps) or "no checkpoint yet"


def main(argv=None):
    """The command line."""
    command_line.run(train, argv, _EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.train import main

    main()
