"""Speed of RQ-VAE training beside the same network in PyTorch: plain, and as a project has it.

    python -m benchmarks.rqvae --json

All get the same parameters and must report one loss for one batch, or there is no ratio. Then they
train by turns, so that whatever else the machine does falls on all. Ours runs whole epochs in one
call, in float32 and with bfloat16 factors; PyTorch's loops have the items in memory and draw their
batches by index, once with all threads and once with one, which is the faster where others use the
machine: a ratio is by the better of both. A peer that cannot be imported is null:
EdoardoBotta/RQ-VAE-Recommender wants its checkout on PYTHONPATH, and `pip install einops
huggingface_hub`; the plain network `pip install torch==2.13.0`.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.record import record
from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import rqvae as rq

_HIDDEN_SIZES, _LATENT_SIZE, _CODEBOOK_SIZES = (512, 256, 128), 32, (256, 256, 256)
_BETA = 0.25
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-4
# Largest relative difference between two losses, by what products are made of.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}
_OURS = {"float32": "tiger_jax", "bfloat16": "tiger_jax_bfloat16"}

_EXAMPLES = """
python -m benchmarks.rqvae --json
python -m benchmarks.rqvae --num_items=18357 --epochs=5 --json
"""


def benchmark(
    num_items: int = 12101,
    embed_size: int = 768,
    batch_size: int = 1024,
    epochs: int = 2,
    rounds: int = 5,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Measures the sizes of TIGER section 4: 768 -> 512, 256, 128 -> 32, three codebooks of 256.

    Args:
      num_items: items of the catalogue (Beauty: 12,101), drawn at random.
      embed_size: width of the content embeddings.
      batch_size: items of an update.
      epochs: epochs of each in a round.
      rounds: number of rounds behind one that warms up.
      seed: of items, parameters and shuffles.
      output: a file for the result, besides.

    Returns:
      Milliseconds a step of each, wall clock and processor, medians over rounds; ratios of peers by
      ours, null where one is missing; the processor milliseconds that the step's products take
      at the rate of the largest of them alone, in float32; hours of the paper's 20,000 epochs.
    """
    x_NE = np.random.default_rng(seed).normal(size=(num_items, embed_size)).astype(np.float32)
    network = rq.RqVae(embed_size, _HIDDEN_SIZES, _LATENT_SIZE, _CODEBOOK_SIZES)
    parameters = network.init(jax.random.key(seed), x_NE[:1])["params"]
    start = jnp.asarray(x_NE[: 8 * max(_CODEBOOK_SIZES)])
    parameters = rq.start_codebooks(parameters, start, jax.random.key(seed), network=network)
    parameters = jax.tree.map(np.asarray, parameters)

    contestants, losses = {}, {}
    for dtype, name in _OURS.items():
        rounded = network.clone(dtype=dtype)
        contestants[name] = _ours(rounded, parameters, x_NE, batch_size, seed)
        losses[name] = _our_loss(rounded, parameters, x_NE[:batch_size])
    makers = {"pytorch": _plain, "rqvae_recommender": _rqvae_recommender}
    for name, maker in makers.items():
        try:
            import torch

            torch.manual_seed(seed)
            all_threads = torch.get_num_threads()
            # OMP_NUM_THREADS=1 leaves out the variant that waits for a busy machine.
            variants = {name: all_threads} | ({f"{name}_1_thread": 1} if all_threads > 1 else {})
            for variant, threads in variants.items():
                model, loss = maker(torch, parameters)
                losses[variant] = loss(torch.tensor(x_NE[:batch_size])).item()
                contestants[variant] = _torch_epochs(
                    torch, model, loss, torch.tensor(x_NE), batch_size, threads
                )
        except ImportError as error:
            print(f"{name}: not here ({error})")
    _require_equal(losses)

    steps = epochs * (num_items // batch_size)
    times, product_ms = _race(contestants, rounds, epochs, steps, x_NE[:batch_size])
    result = {
        **{f"ratio_vs_{name}": _ratios(times, name) for name in makers},
        "device": jax.devices()[0].device_kind,
        "num_items": num_items,
        "embed_size": embed_size,
        "batch_size": batch_size,
        "losses": losses,
        "products_processor_ms": product_ms * _products(embed_size),
        **artifacts.provenance(),
    }
    for name, pairs in times.items():
        wall, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
        result[name] = {
            "wall_ms_per_step": wall,
            "processor_ms_per_step": processor,
            "hours_of_20000_epochs": wall * (num_items // batch_size) * 20000 / 3.6e6,
        }
    if output:
        record(output, result)
    return result


def _require_equal(losses: dict[str, float]) -> None:
    for name, loss in losses.items():
        dtype = "bfloat16" if name == _OURS["bfloat16"] else "float32"
        if abs(loss / losses[_OURS["float32"]] - 1) > _TOLERANCE[dtype]:
            raise InputError(f"the losses differ, {losses}: no ratio would mean anything")


def _race(
    contestants: dict[str, Callable], rounds: int, epochs: int, steps: int, x_BE: np.ndarray
) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """(wall, processor) ms a step of each by rounds; processor ms of the largest product alone."""
    product = jax.jit(jnp.dot)
    kernel_EH = np.ones((x_BE.shape[1], _HIDDEN_SIZES[0]), np.float32)
    times, product_ms = {name: [] for name in contestants}, []
    for number in range(rounds + 1):
        for name, train in contestants.items():
            wall, processor = time.perf_counter(), time.process_time()
            train(epochs)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            if number:
                times[name].append((1e3 * wall / steps, 1e3 * processor / steps))
        processor = time.process_time()
        for _ in range(8):
            jax.block_until_ready(product(x_BE, kernel_EH))
        product_ms.append(1e3 * (time.process_time() - processor) / 8)
    return times, statistics.median(product_ms[1:])


def _products(embed_size: int) -> float:
    """Multiplications of a step by those of its largest product."""
    widths = (embed_size, *_HIDDEN_SIZES, _LATENT_SIZE)
    layers = [wide * narrow for wide, narrow in itertools.pairwise(widths)]
    # Encoder and decoder, once forward and twice backward; nothing needs the input's gradient.
    return (6 * sum(layers) - layers[0]) / layers[0]


def _ratios(times: dict[str, list[tuple[float, float]]], peer: str) -> dict | None:
    """Time of the better of a peer's variants over ours in the same round: medians and ranges."""
    theirs = [times[name] for name in (peer, f"{peer}_1_thread") if name in times]
    if not theirs:
        return None
    found = {}
    for dtype, name in _OURS.items():
        for place, clock in enumerate(("wall", "processor")):
            ratios = [
                min(variant[number][place] for variant in theirs) / ours[place]
                for number, ours in enumerate(times[name])
            ]
            found[f"{dtype}_{clock}"] = statistics.median(ratios)
            found[f"{dtype}_{clock}_range"] = [min(ratios), max(ratios)]
    return found


def _ours(
    network: rq.RqVae, parameters: dict, x_NE: np.ndarray, batch_size: int, seed: int
) -> Callable[[int], None]:
    optimizer = optax.adamw(_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    state = rq.TrainState(
        jax.tree.map(jnp.array, parameters), optimizer.init(parameters), jax.random.key(seed)
    )
    x_NE = jnp.asarray(x_NE)

    def train(epochs: int) -> None:
        nonlocal state
        state, losses = rq.train_epochs(
            state,
            x_NE,
            network=network,
            optimizer=optimizer,
            beta=_BETA,
            batch_size=batch_size,
            num_epochs=epochs,
        )
        jax.block_until_ready(losses)

    return train


def _our_loss(network: rq.RqVae, parameters: dict, x_BE: np.ndarray) -> float:
    return float(rq.loss(network.apply({"params": parameters}, x_BE), x_BE, _BETA)[0])


def _plain(torch, parameters: dict):
    """Encoder, decoder and codebooks with our parameters, and TIGER section 3.1's loss."""

    def mlp(layers):
        modules = []
        for kernel, bias in _layers(layers):
            linear = torch.nn.Linear(*kernel.shape)
            linear.weight.data, linear.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    model = torch.nn.Module()
    model.encoder, model.decoder = mlp(parameters["encoder"]), mlp(parameters["decoder"])
    model.codebooks = torch.nn.ParameterList(map(torch.tensor, _codebooks(parameters)))
    return model, functools.partial(_plain_loss, torch, model)


def _plain_loss(torch, model, x):
    """As one writes it in PyTorch."""
    latent = model.encoder(x)
    residual, quantized, quantization = latent, 0, 0
    for codebook in model.codebooks:
        codeword = codebook[torch.cdist(residual, codebook).argmin(dim=1)]
        codebook_term = (residual.detach() - codeword).pow(2).sum(dim=1)
        commitment = (residual - codeword.detach()).pow(2).sum(dim=1)
        quantization = quantization + (codebook_term + _BETA * commitment).mean()
        quantized = quantized + codeword
        residual = residual - codeword.detach()
    reconstruction = model.decoder(latent + (quantized - latent).detach())
    return (x - reconstruction).pow(2).sum(dim=1).mean() + quantization


def _rqvae_recommender(torch, parameters: dict):
    """EdoardoBotta/RQ-VAE-Recommender: its model as its card of Amazon has it, compiled by itself.

    Its layers have no biases; ours are 0 at the start.
    """
    from data.schemas import SeqBatch
    from modules.quantize import QuantizeForwardMode
    from modules.rqvae import RqVae

    model = RqVae(
        input_dim=len(parameters["encoder"]["Dense_0"]["kernel"]),
        embed_dim=_LATENT_SIZE,
        hidden_dims=list(_HIDDEN_SIZES),
        codebook_size=_CODEBOOK_SIZES[0],
        codebook_kmeans_init=False,
        codebook_mode=QuantizeForwardMode.STE,
        n_layers=len(_CODEBOOK_SIZES),
        commitment_weight=_BETA,
        n_cat_features=0,
    )
    for name in ("encoder", "decoder"):
        _set_weights(torch, getattr(model, name), parameters[name])
    for layer, codebook in zip(model.layers, _codebooks(parameters), strict=True):
        layer.embedding.weight.data = torch.tensor(codebook)
    model.train()
    others = dict.fromkeys(SeqBatch._fields)
    return model, lambda x: model(SeqBatch(**others | {"x": x}), gumbel_t=0.2).loss


def _layers(network: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer."""
    layers = (network[f"Dense_{number}"] for number in range(len(network)))
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def _codebooks(parameters: dict) -> list[np.ndarray]:
    return [parameters[f"codebook_{level}"] for level in range(len(_CODEBOOK_SIZES))]


def _set_weights(torch, module, network: dict) -> None:
    """Our parameters in the linear layers of a module of the same shapes."""
    linears = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    for linear, (kernel, bias) in zip(linears, _layers(network), strict=True):
        linear.weight.data = torch.tensor(kernel.T.copy())
        if linear.bias is not None:
            linear.bias.data = torch.tensor(bias)


def _torch_epochs(
    torch, model, loss: Callable, x, batch_size: int, threads: int
) -> Callable[[int], None]:
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)

    def train(epochs: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for first in range(0, len(x) - batch_size + 1, batch_size):
                optimizer.zero_grad()
                loss(x[order[first : first + batch_size]]).backward()
                optimizer.step()

    return train


def main(argv=None):
    """Runs the benchmark from the command line."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.rqvae import main

    main()
