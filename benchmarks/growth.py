"""What a training step costs as the network, the history and the catalogue grow.

    python -m benchmarks.growth --output=results/growth_cpu.json --picture=growth.svg --json

From the paper's sizes, one at a time: the width (feed-forward width and number of heads with it),
the layers of encoder and decoder, the items of a history, the items of the catalogue. Histories
are full, so that a step costs what its shape says. Beside the time stand the floating-point
operations that XLA counts in the step, which no other work on the machine can disturb.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks.decoding import catalogue
from benchmarks.record import record
from tiger_jax import artifacts, command_line, mesh, train_state
from tiger_jax.model.model import TigerModel, num_parameters
from tiger_jax.model.network import NetworkConfig
from tiger_jax.vocabulary import Vocabulary

# The paper's sizes, and how far each grows alone.
BASE = {"width": 128, "layers": 4, "history": 20, "catalogue": 12101}
AXES = {
    "width": (128, 256, 512, 1024),
    "layers": (1, 2, 4, 8),
    "history": (20, 50, 100, 200),
    "catalogue": (12101, 100_000, 1_000_000, 10_000_000),
}

_CODEBOOK_SIZES = (256, 256, 256, 256)
_NUM_USER_TOKENS = 2000
_HEADS_PER_WIDTH, _HEAD_DIM, _MLP_PER_WIDTH = 6 / 128, 64, 8
_LEARNING_RATE = 0.01

_EXAMPLES = """
python -m benchmarks.growth --json
python -m benchmarks.growth --axes=history --batch_size=64 --json
"""


def benchmark(
    axes: str = "width,layers,history,catalogue",
    batch_size: int = 16,
    steps: int = 5,
    dtype: str = "bfloat16",
    seed: int = 0,
    output: str = "",
    picture: str = "",
) -> dict:
    """Measures a training step (loss, gradients, Adafactor) at each point of the axes.

    Args:
      axes: which sizes grow, separated by commas.
      batch_size: examples in a step.
      steps: timed steps of a point, behind one that warms up.
      dtype: what the matrix products are made of.
      seed: of catalogue, parameters, histories and dropout.
      output: a file for the result, besides.
      picture: a file for the picture of it, .svg or .png.

    Returns:
      by_axis: for each axis, for each size: processor_ms and wall_ms of a step, medians;
      flops of a step as XLA counts them; parameters.
    """
    names = axes.split(",")
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise artifacts.InputError(f"axes={axes}: choose among {', '.join(AXES)}")
    points = {(name, size): BASE | {name: size} for name in names for size in AXES[name]}
    measured = {}
    for point in tqdm.tqdm(list(points.values()), unit="point"):
        key = tuple(point.values())
        if key not in measured:
            measured[key] = measure(point, batch_size, steps, dtype, seed)
    result = {
        "by_axis": {
            name: {size: measured[tuple(points[name, size].values())] for size in AXES[name]}
            for name in names
        },
        "base": BASE,
        "batch_size": batch_size,
        "steps": steps,
        "dtype": dtype,
        "seed": seed,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    for line in table_of(result):
        print(line)
    if output:
        record(output, result)
    if picture:
        draw(result, picture)
    return result


def measure(
    point: dict[str, int], batch_size: int, steps: int, dtype: str, seed: int
) -> dict[str, float]:
    """One point: a value for each name of `BASE`."""
    step, state, data = training_step(point, batch_size, dtype, seed)
    num_params = num_parameters(state.params)
    lowered = jax.jit(step, donate_argnums=0).lower(state, data)
    flops = lowered.cost_analysis()["flops"]
    compiled = lowered.compile()
    wall, processor = [], []
    for _ in range(1 + steps):
        started, cpu_started = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(compiled(state, data))
        wall.append(1e3 * (time.perf_counter() - started))
        processor.append(1e3 * (time.process_time() - cpu_started))
    return {
        "processor_ms": statistics.median(processor[1:]),
        "wall_ms": statistics.median(wall[1:]),
        "flops": flops,
        "parameters": num_params,
    }


def training_step(
    point: dict[str, int], batch_size: int, dtype: str, seed: int
) -> tuple[Callable, train_state.TrainState, dict[str, jax.Array]]:
    """(state, data) -> state: one step on a batch whose items are looked up on the device."""
    vocabulary = Vocabulary(_CODEBOOK_SIZES, _NUM_USER_TOKENS)
    width, layers = point["width"], point["layers"]
    model = TigerModel(
        NetworkConfig(
            vocab_size=vocabulary.size,
            emb_dim=width,
            num_heads=max(1, round(_HEADS_PER_WIDTH * width)),
            head_dim=_HEAD_DIM,
            mlp_dim=_MLP_PER_WIDTH * width,
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            dropout_rate=0.1,
            logits_via_embedding=True,
            dtype=dtype,
        ),
        vocabulary,
    )
    optimizer = train_state.adafactor(lambda step: _LEARNING_RATE)
    random = np.random.default_rng(seed)
    items_BH = random.integers(1, point["catalogue"] + 1, (batch_size, point["history"] + 1))
    users_B = vocabulary.first_user_token + random.integers(0, _NUM_USER_TOKENS, batch_size)
    data = {
        "tokens_NI": vocabulary.token_table(catalogue(point["catalogue"], seed)),
        "items_BH": items_BH.astype(np.int32),
        "users_B1": users_B[:, None].astype(np.int32),
    }

    def step(state, data):
        tokens_BHI = data["tokens_NI"][data["items_BH"]]
        history_BS = tokens_BHI[:, :-1].reshape(batch_size, -1)
        batch = {
            "encoder_input_tokens": jnp.concatenate([data["users_B1"], history_BS], axis=1),
            "decoder_target_tokens": tokens_BHI[:, -1],
        }
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients = jax.grad(lambda params: model.loss_fn(params, batch, key)[0] / batch_size)(
            state.params
        )
        return state.apply_gradients(gradients, optimizer)

    # What a step costs does not depend on its numbers, and drawing them would take longer.
    shapes = jax.eval_shape(model.init, jax.random.key(seed))
    params = jax.tree.map(lambda shape: np.full(shape.shape, 0.01, np.float32), shapes)
    state = jax.jit(lambda params: train_state.TrainState.create(params, optimizer))(params)
    return step, state, jax.tree.map(jnp.asarray, data)


def table_of(result: dict) -> list[str]:
    """A row of Markdown for each point, its time and operations also by those of the first."""
    lines = [
        "| what grows | | parameters | processor ms a step | | operations | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_size in result["by_axis"].items():
        first = next(iter(by_size.values()))
        for size, cost in by_size.items():
            lines.append(
                f"| {name} | {int(size):,} | {cost['parameters'] / 1e6:.1f}M"
                f" | {cost['processor_ms']:,.0f}"
                f" | {cost['processor_ms'] / first['processor_ms']:.1f}x"
                f" | {cost['flops'] / 1e9:,.1f}G | {cost['flops'] / first['flops']:.1f}x |"
            )
    return lines


def draw(result: dict, path: str) -> None:
    """Times and operations by those of each axis' first point, both axes logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    by_axis = result["by_axis"]
    # One scale for all, or the noise of an axis that costs nothing would look like growth.
    figure, places = pyplot.subplots(
        1,
        len(by_axis),
        figsize=(3 * len(by_axis), 3),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for place, (name, by_size) in zip(places[0], by_axis.items(), strict=True):
        sizes, costs = [int(size) for size in by_size], list(by_size.values())
        for what, label, marker in (
            ("processor_ms", "processor time", "o"),
            ("flops", "operations", "x"),
        ):
            growth = [cost[what] / costs[0][what] for cost in costs]
            place.plot(sizes, growth, marker=marker, label=label)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        place.minorticks_off()
        place.set_xlabel(name)
        place.grid(alpha=0.3)
    places[0][0].set_ylabel("cost of a step by its first point")
    places[0][0].legend()
    with artifacts.atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.rpartition(".")[2])
    pyplot.close(figure)


def main(argv=None):
    """Runs the benchmark from the command line."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.growth import main

    main()
