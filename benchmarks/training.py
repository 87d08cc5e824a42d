"""Training speed beside T5X and Hugging Face, on the same examples with the same parameters.

    python -m benchmarks.training --folder=work/beauty --ids=rqvae --json

Random batches of an epoch, with its mix of lengths, go through all contestants in turn, so that
whatever else the machine does falls on all of them. The peers pad every history to 20 items, as
they do in use. With dropout off, all must report one loss, or there is no ratio. A peer that
cannot be imported is null: T5X wants its three repositories on PYTHONPATH (docs/t5x.md), Hugging
Face `pip install torch==2.13.0 transformers`.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tiger_jax import artifacts, batching, command_line, mesh, train, train_state
from tiger_jax.data import examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.model.model import TigerModel, num_parameters, shift_right
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

_MAX_HISTORY = 20
_LEARNING_RATE = 0.01
# Of each part of an ID (TIGER section 4).
SIZES = (256, 256, 256, 256)
_DROPOUT = 0.1
# Largest relative difference between the losses of two contestants, by what products are made of.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3}

_EXAMPLES = """
python -m benchmarks.training --folder=work/beauty --ids=rqvae --json
"""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A trainer of the same network.

    Attributes:
      loss: tokens of one batch -> mean of -log p(item), nats; dropout off, nothing learnt.
      train: batches -> nothing; takes one training step a batch and waits for the last.
    """

    loss: Callable[[list[dict[str, np.ndarray]]], float]
    train: Callable[[list[dict[str, np.ndarray]]], None]


def benchmark(
    folder: str,
    ids: str,
    batch_size: int = 256,
    rounds: int = 8,
    batches_per_round: int = 5,
    dtype: str = "bfloat16",
    num_groups: int = 4,
    seed: int = 0,
    only: str = "",
) -> dict:
    """Examples a second of this trainer, of T5X's and of Hugging Face's, and their ratios.

    Args:
      folder: a prepared folder.
      ids: name of the Semantic-ID table in it.
      batch_size: examples in a step.
      rounds: how often each contestant trains; the figures are medians over the rounds.
      batches_per_round: steps of each contestant in a round.
      dtype: what this trainer's products are made of; the peers compute in float32.
      num_groups: lengths of history that this trainer is compiled for.
      seed: of the parameters and the batches.
      only: "tiger_jax", "t5x" or "hf" for that contestant alone, whose peak memory is then told.
    """
    sequences, table, model = load(folder, ids, dtype)
    vocab, config = model.vocabulary, model.config
    params = jax.tree.map(np.asarray, model.init(jax.random.key(seed)))
    training = examples.prefix_examples(sequences, _MAX_HISTORY)
    groups = examples.length_groups(training.lengths, batch_size, num_groups)
    data = batching.device_data(training, sequences, table, vocab)
    plan = examples.epoch_plan(training.lengths, groups, seed, 0)
    batches = random_batches(plan, data, rounds * batches_per_round, seed)

    makers = {"tiger_jax": ours, "t5x": t5x, "hf": hugging_face}
    if only not in ("", *makers):
        raise artifacts.InputError(f"only={only}: choose one of {', '.join(makers)}")
    contestants = {}
    for name in [only] if only else makers:
        try:
            contestants[name] = makers[name](model, params, groups, data, seed)
        except ImportError as error:
            print(f"{name}: not here ({error})")
    losses = {name: each.loss(batches[0]) for name, each in contestants.items()}
    require_equal(losses, dtype)
    seconds, product_flops = race(contestants, batches, batches_per_round, dtype)
    rates = {
        name: batch_size * batches_per_round / statistics.median(times)
        for name, times in seconds.items()
    }
    flops = flops_per_example(config, groups, vocab.id_length) * rates.get("tiger_jax", np.nan)
    result = {
        "ratio_vs_t5x": _ratio(rates, "t5x"),
        "ratio_vs_hf": _ratio(rates, "hf"),
        "examples_per_s": rates.get("tiger_jax"),
        "fraction_of_matmul": flops / product_flops,
        "model_flops_per_s": flops,
        "matmul_flops_per_s": product_flops,
        "examples_per_s_of_all": rates,
        "seconds_by_round": seconds,
        "losses": losses,
        "parameters": num_parameters(params),
        "batch_size": batch_size,
        "batches": len(batches),
        "dtype": dtype,
        "capacities": groups.capacities,
        "group_sizes": groups.sizes,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    if only:
        result["peak_memory_bytes"] = peak_memory()
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} examples/s, loss {losses[name]:.5f}")
    return result


def load(
    folder: str, ids: str, dtype: str, causal_encoder: bool = False
) -> tuple[Sequences, SemanticIdTable, TigerModel]:
    """What a prepared folder holds, and the paper's network with no more tokens than it needs."""
    sequences = Sequences.load(f"{folder}/sequences.npz")
    table = SemanticIdTable.load(
        f"{folder}/ids/{ids}/semantic_ids.npz", sequences.header["items_checksum"]
    )
    return sequences, table, paper_model(dtype, table.codebook_sizes, causal_encoder)


def paper_model(
    dtype: str, codebook_sizes: tuple[int, ...] = SIZES, causal_encoder: bool = False
) -> TigerModel:
    """The paper's network over these codes and 2,000 users, the embedding tied to the logits."""
    vocab = Vocabulary(codebook_sizes, 2000)
    config = NetworkConfig(
        vocab_size=vocab.size,
        emb_dim=128,
        num_heads=6,
        head_dim=64,
        mlp_dim=1024,
        num_encoder_layers=4,
        num_decoder_layers=4,
        dropout_rate=_DROPOUT,
        logits_via_embedding=True,
        dtype=dtype,
        causal_encoder=causal_encoder,
    )
    return TigerModel(config, vocab)


def random_batches(plan: np.ndarray, data: dict, count: int, seed: int) -> list[dict]:
    """`count` batches of an epoch: example numbers, and their tokens padded to 20 items."""
    assemble = jax.jit(batching.assemble, static_argnums=2)
    chosen = np.random.default_rng(seed).permutation(len(plan))[:count]
    if len(chosen) < count:
        raise artifacts.InputError(f"an epoch has {len(plan)} batches, {count} are needed")
    return [
        {"rows": plan[number]}
        | jax.tree.map(np.asarray, assemble(data, plan[number], _MAX_HISTORY))
        for number in chosen
    ]


def race(
    contestants: dict[str, Contestant], batches: list[dict], batches_per_round: int, dtype: str
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each round by contestant, and FLOP/s of a large product of that type beside."""
    product, product_flops = large_product(dtype)
    seconds = {name: [] for name in contestants}
    rates = []
    # Compile and warm up; again, as what a step leaves behind may lie elsewhere than at first.
    for contestant in 2 * [*contestants.values()]:
        contestant.train(batches[:batches_per_round])
    for first in tqdm.trange(0, len(batches), batches_per_round, unit="round"):
        for name, contestant in contestants.items():
            seconds[name].append(
                _seconds(lambda: contestant.train(batches[first : first + batches_per_round]))  # noqa: B023
            )
        rates.append(product_flops / _seconds(product))
    return seconds, statistics.median(rates)


def ours(model: TigerModel, params, groups, data, seed) -> Contestant:
    """The native trainer: length groups, many steps a call."""
    optimizer = train_state.adafactor(lambda step: _LEARNING_RATE)
    step_fn = train.make_step_fn(model, optimizer, groups, seed)
    state = train_state.TrainState.create(jax.tree.map(jnp.array, params), optimizer)
    bounds = np.cumsum((0, *groups.sizes))

    @jax.jit
    def loss_fn(params, rows_B):
        losses = [
            model.loss_fn(params, batching.assemble(data, rows_B[low:high], capacity), None)[0]
            for low, high, capacity in zip(bounds, bounds[1:], groups.capacities, strict=False)
        ]
        return sum(losses) / len(rows_B)

    def run(batches):
        nonlocal state
        state, losses = step_fn(state, data, np.stack([batch["rows"] for batch in batches]))
        jax.block_until_ready((state, losses))

    return Contestant(lambda batch: float(loss_fn(params, batch["rows"])), run)


def t5x(model: TigerModel, params, groups, data, seed) -> Contestant:
    """T5X's own network, model, optimizer and training step."""
    import seqio
    from t5x import adafactor, models, train_state, trainer
    from t5x.examples.t5 import network

    sizes = dataclasses.asdict(model.config) | {"dtype": "float32"}
    for ours_alone in ("causal_encoder", "rematerialise"):
        sizes.pop(ours_alone)
    module = network.Transformer(network.T5Config(**sizes, mlp_activations=("relu",)))
    vocabulary = seqio.PassThroughVocabulary(model.config.vocab_size)
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(decay_rate=0.8, step_offset=0, logical_factor_rules=rules)
    t5x_model = models.EncoderDecoderModel(module, vocabulary, vocabulary, optimizer)
    shapes = {"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 4)}
    variables = t5x_model.get_initial_variables(
        jax.random.key(seed), shapes | {"decoder_target_tokens": (1, 4)}
    )
    state = train_state.FlaxOptimTrainState.create(
        optimizer, {**variables, "params": jax.tree.map(jnp.array, params)}
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step_fn(state, batch, key):
        return trainer.train_with_lr(state, batch, _LEARNING_RATE, key, t5x_model, None)[0]

    def run(batches):
        nonlocal state
        for number, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(seed), number)
            state = step_fn(state, _t5x_batch(batch), key)
        jax.block_until_ready(state.params)

    loss_fn = jax.jit(lambda params, batch: t5x_model.loss_fn(params, batch, None)[0])

    def loss(batch):
        return float(loss_fn(params, _t5x_batch(batch))) / len(batch["rows"])

    return Contestant(loss, run)


def _t5x_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    targets_BT = batch["decoder_target_tokens"]
    return {
        "encoder_input_tokens": batch["encoder_input_tokens"],
        "decoder_target_tokens": targets_BT,
        "decoder_input_tokens": np.asarray(shift_right(targets_BT)),
        "decoder_loss_weights": np.ones_like(targets_BT),
    }


def hugging_face(model: TigerModel, params, groups, data, seed) -> Contestant:
    """`T5ForConditionalGeneration` in PyTorch with transformers' Adafactor."""
    import torch
    from transformers.optimization import Adafactor

    torch.manual_seed(seed)
    network = hugging_face_network(
        model.config, params, dropout_rate=model.config.dropout_rate, use_cache=False
    )
    optimizer = Adafactor(
        network.parameters(), lr=_LEARNING_RATE, relative_step=False, scale_parameter=True
    )

    def loss_of(batch):
        inputs = torch.tensor(batch["encoder_input_tokens"], dtype=torch.long)
        return network(
            input_ids=inputs,
            attention_mask=inputs > 0,
            labels=torch.tensor(batch["decoder_target_tokens"], dtype=torch.long),
        ).loss

    def loss(batch):
        network.eval()
        with torch.no_grad():
            # The mean over tokens; an item has as many as targets are long.
            return float(loss_of(batch)) * batch["decoder_target_tokens"].shape[1]

    def run(batches):
        network.train()
        for batch in batches:
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()

    return Contestant(loss, run)


def hugging_face_network(config: NetworkConfig, params: dict, **options):
    """Hugging Face's T5 of the same sizes with the same parameters; options are its config's."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    network = T5ForConditionalGeneration(
        T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="relu",
            tie_word_embeddings=config.logits_via_embedding,
            decoder_start_token_id=0,
            pad_token_id=0,
            **options,
        )
    )
    network.load_state_dict(
        {name: torch.tensor(np.array(value)) for name, value in hugging_face_names(params).items()},
        strict=False,
    )
    network.tie_weights()
    return network


def hugging_face_names(params: dict) -> dict[str, np.ndarray]:
    """Parameters under the names of Hugging Face's T5, whose kernels are transposed."""
    embedding = params["token_embedder"]["embedding"]
    named = {"shared.weight": embedding}
    if "logits_dense" in params["decoder"]:
        named["lm_head.weight"] = params["decoder"]["logits_dense"]["kernel"].T
    parts = {
        "encoder": (("attention", "SelfAttention", "pre_attention_layer_norm"),),
        "decoder": (
            ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
            ("encoder_decoder_attention", "EncDecAttention", "pre_cross_attention_layer_norm"),
        ),
    }
    for stack, attentions in parts.items():
        tree = params[stack]
        named[f"{stack}.final_layer_norm.weight"] = tree[f"{stack}_norm"]["scale"]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        named[bias] = tree["relpos_bias"]["rel_embedding"].T
        for number in range(sum(name.startswith("layers_") for name in tree)):
            layer = tree[f"layers_{number}"]
            for place, (ours, theirs, norm) in enumerate(attentions):
                prefix = f"{stack}.block.{number}.layer.{place}"
                named[f"{prefix}.layer_norm.weight"] = layer[norm]["scale"]
                for matrix, letter in zip(("query", "key", "value", "out"), "qkvo", strict=True):
                    named[f"{prefix}.{theirs}.{letter}.weight"] = layer[ours][matrix]["kernel"].T
            prefix = f"{stack}.block.{number}.layer.{len(attentions)}"
            named[f"{prefix}.layer_norm.weight"] = layer["pre_mlp_layer_norm"]["scale"]
            for matrix in ("wi", "wo"):
                named[f"{prefix}.DenseReluDense.{matrix}.weight"] = layer["mlp"][matrix]["kernel"].T
    return named


def require_equal(losses: dict[str, float], dtype: str) -> None:
    """One loss for all, or the comparison is void."""
    lowest, highest = min(losses.values()), max(losses.values())
    if highest - lowest > _TOLERANCE[dtype] * highest:
        raise artifacts.InputError(
            f"the contestants' losses differ, {losses}: no ratio; they train different networks"
        )


def flops_per_example(config: NetworkConfig, groups: examples.LengthGroups, id_length: int):
    """Floating-point operations of the matrix products that an example needs, padding included.

    Two for a product and its sum; the backward pass has twice those of the forward pass.
    """
    joined = config.num_heads * config.head_dim
    projection = 2 * config.emb_dim * joined
    mlp = 2 * 2 * config.emb_dim * config.mlp_dim
    total = 0
    for capacity, size in zip(groups.capacities, groups.sizes, strict=True):
        source, target = 1 + capacity * id_length, id_length
        encoder = source * (4 * projection + mlp + 2 * 2 * source * joined)
        decoder = target * (6 * projection + mlp + 2 * 2 * (source + target) * joined)
        decoder += source * 2 * projection
        forward = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
        total += size * (forward + target * 2 * config.emb_dim * config.vocab_size)
    return 3 * total / groups.batch_size


def large_product(dtype: str, size: int = 2048) -> tuple[Callable[[], None], float]:
    """A product of two large square matrices, compiled, and its operations."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    multiply = jax.jit(lambda a: a @ a)
    jax.block_until_ready(multiply(a))
    return lambda: jax.block_until_ready(multiply(a)), 2.0 * size**3


def peak_memory() -> int:
    """Most bytes that this process has had in memory (on the device, where that is another)."""
    import resource

    statistics_of_device = jax.devices()[0].memory_stats()
    if statistics_of_device:
        return statistics_of_device["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ratio(rates: dict[str, float], peer: str) -> float | None:
    if peer not in rates or "tiger_jax" not in rates:
        return None
    return rates["tiger_jax"] / rates[peer]


def _seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main(argv=None):
    """Command line of the benchmark."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.training import main

    main()
