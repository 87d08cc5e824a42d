"""Speed of RQ-VAE training beside the same network in plain PyTorch.

    python -m benchmarks.rqvae --json

Both get the same parameters and must report one loss for one batch, or there is no ratio. Then
they train by turns, so that whatever else the machine does falls on both. Ours runs whole epochs
in one call; PyTorch's loop has the items in memory and draws its batches by index, once with all
its threads and once with one, which is the faster where others use the machine: the ratios are by
the better of both. Without torch only our own figures are given.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import rqvae as rq

_HIDDEN_SIZES, _LATENT_SIZE, _CODEBOOK_SIZES = (512, 256, 128), 32, (256, 256, 256)
_BETA = 0.25
_LEARNING_RATE = 1e-3
# Largest relative difference between the two losses.
_TOLERANCE = 1e-4

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
) -> dict:
    """Measures the sizes of TIGER section 4: 768 -> 512, 256, 128 -> 32, three codebooks of 256.

    Args:
      num_items: items of the catalogue (Beauty: 12,101), drawn at random.
      embed_size: width of the content embeddings.
      batch_size: items of an update.
      epochs: epochs of each in a round.
      rounds: number of rounds behind one that warms up.
      seed: of items, parameters and shuffles.

    Returns:
      Milliseconds a step of each, wall clock and processor, medians over rounds; their ratios,
      PyTorch's best by ours; hours that the paper's 20,000 epochs would take.
    """
    x_NE = np.random.default_rng(seed).normal(size=(num_items, embed_size)).astype(np.float32)
    network = rq.RqVae(embed_size, _HIDDEN_SIZES, _LATENT_SIZE, _CODEBOOK_SIZES)
    parameters = network.init(jax.random.key(seed), x_NE[:1])["params"]
    start = jnp.asarray(x_NE[: 8 * max(_CODEBOOK_SIZES)])
    parameters = rq.start_codebooks(parameters, start, jax.random.key(seed), network=network)
    parameters = jax.tree.map(np.asarray, parameters)

    contestants = {"tiger_jax": _ours(network, parameters, x_NE, batch_size, seed)}
    losses = {"tiger_jax": _our_loss(network, parameters, x_NE[:batch_size])}
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        torch.manual_seed(seed)
        model = _torch_network(torch, parameters)
        with torch.no_grad():
            losses["pytorch"] = float(_torch_loss(torch, model, torch.tensor(x_NE[:batch_size])))
        for name, threads in (("pytorch", torch.get_num_threads()), ("pytorch_1_thread", 1)):
            contestants[name] = _torch_epochs(
                torch, _torch_network(torch, parameters), torch.tensor(x_NE), batch_size, threads
            )
        difference = abs(losses["pytorch"] / losses["tiger_jax"] - 1)
        if difference > _TOLERANCE:
            raise InputError(f"the losses differ, {losses}: no ratio would mean anything")

    steps = epochs * (num_items // batch_size)
    times = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, train in contestants.items():
            wall, processor = time.perf_counter(), time.process_time()
            train(epochs)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            if round_number:
                times[name].append((1e3 * wall / steps, 1e3 * processor / steps))
    result = {
        "device": jax.devices()[0].device_kind,
        "num_items": num_items,
        "embed_size": embed_size,
        "batch_size": batch_size,
        "losses": losses,
        **artifacts.provenance(),
    }
    for name, pairs in times.items():
        wall, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
        result[name] = {
            "wall_ms_per_step": wall,
            "processor_ms_per_step": processor,
            "hours_of_20000_epochs": wall * (num_items // batch_size) * 20000 / 3.6e6,
        }
    theirs = [name for name in times if name != "tiger_jax"]
    for place, clock in enumerate(("wall", "processor")):
        ratios = [
            min(times[name][number][place] for name in theirs) / ours[place]
            for number, ours in enumerate(times["tiger_jax"])
            if theirs
        ]
        result[f"{clock}_ratio"] = statistics.median(ratios) if ratios else None
        result[f"{clock}_ratio_range"] = [min(ratios), max(ratios)] if ratios else None
    return result


def _ours(
    network: rq.RqVae, parameters: dict, x_NE: np.ndarray, batch_size: int, seed: int
) -> Callable[[int], None]:
    optimizer = optax.adamw(_LEARNING_RATE)
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


def _torch_network(torch, parameters: dict):
    """Encoder, decoder and codebooks with our parameters."""

    def mlp(layers):
        modules = []
        for number in range(len(layers)):
            kernel, bias = (layers[f"Dense_{number}"][name] for name in ("kernel", "bias"))
            linear = torch.nn.Linear(*kernel.shape)
            linear.weight.data = torch.tensor(kernel.T.copy())
            linear.bias.data = torch.tensor(bias)
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    model = torch.nn.Module()
    model.encoder, model.decoder = mlp(parameters["encoder"]), mlp(parameters["decoder"])
    model.codebooks = torch.nn.ParameterList(
        torch.tensor(parameters[f"codebook_{level}"]) for level in range(len(_CODEBOOK_SIZES))
    )
    return model


def _torch_loss(torch, model, x):
    """TIGER section 3.1 as one writes it in PyTorch."""
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


def _torch_epochs(torch, model, x, batch_size: int, threads: int) -> Callable[[int], None]:
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=1e-4)

    def train(epochs: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for first in range(0, len(x) - batch_size + 1, batch_size):
                optimizer.zero_grad()
                loss = _torch_loss(torch, model, x[order[first : first + batch_size]])
                loss.backward()
                optimizer.step()

    return train


def main(argv=None):
    """Runs the benchmark from the command line."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.rqvae import main

    main()
