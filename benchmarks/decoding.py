"""Constrained beam search beside T5X, Hugging Face and STATIC: same weights, same items found.

    python -m benchmarks.decoding --json

The contestants search in turn, round after round, so that whatever else the machine does falls on
all of them; figures are medians. All take four steps, one a part of an ID, and all must find the
same 20 items, or there is no ratio. A peer that cannot be imported is null: T5X and
youtube/static-constraint-decoding want their repositories on PYTHONPATH, Hugging Face
`pip install torch==2.13.0 transformers`.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from benchmarks.record import record
from benchmarks.training import SIZES, hugging_face_network, paper_model, peak_memory
from tiger_jax import artifacts, command_line, mesh
from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import EOS

_NUM_INPUTS = 81
_TOP = 20
# Of log p, nats; equal scores within it may rank either way.
_TOLERANCE = 2e-3

_EXAMPLES = """
python -m benchmarks.decoding --json
python -m benchmarks.decoding --items=12101 --rounds=5
"""


def benchmark(
    items: str = "12101,1000000,20000000",
    rounds: int = 20,
    peer_rounds: int = 20,
    peers: bool = True,
    dtype: str = "float32",
    unevenness: float = 0.5,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Users a second of the constrained search and its peers, their ratios, and the index.

    Peers search at the first size alone; its index and the overhead of the constraint are measured
    at all sizes.

    Args:
      items: sizes of generated catalogues.
      rounds: searches of each contestant.
      peer_rounds: searches of T5X and Hugging Face, which are slow.
      peers: whether they take part, and STATIC's index is built; they want much memory.
      dtype: what the matrix products of this search are made of; the peers' are float32.
      unevenness: standard deviation of the logarithms of the codes' frequencies.
      seed: of the catalogue, the parameters and the histories.
      output: a file for the result, besides.
    """
    model = paper_model(dtype)
    params = jax.device_put(model.init(jax.random.key(seed)))
    sizes = [int(size) for size in items.split(",")]
    result = {"by_size": {}, "by_shape": {}}
    for number, size in enumerate(sizes):
        semantic_ids_NI = catalogue(size, seed, unevenness)
        trie, index = _index(semantic_ids_NI)
        index["static"] = _static_index(semantic_ids_NI) if peers else None
        print(f"{size:,} items: {index}")
        shapes = ((64, 20), (2, 70)) if number == 0 else ((64, 20),)
        for num_users, num_beams in shapes:
            tokens_BS = histories(model, semantic_ids_NI, num_users, seed)
            search = _ours(model, params, trie, num_beams)
            contestants = {
                "tiger_jax": search,
                "unconstrained": _ours(model, params, _Anything.over(model), num_beams),
            }
            if number == 0 and peers:
                contestants |= _peers(model, params, trie, num_beams)
                _require_equal_results(model, params, trie, contestants, tokens_BS, num_beams)
            times = race(contestants, tokens_BS, rounds, peer_rounds)
            entry = _ratios(*times, num_users)
            shown = {name: value for name, value in entry.items() if name != "seconds"}
            print(f"{size:,} items, {num_users} x {num_beams}: {shown}", flush=True)
            if number == 0:
                result["by_shape"][f"{num_users}x{num_beams}"] = entry
            if num_users == 64:
                result["by_size"][size] = {**entry, **index}
    first = next(iter(result["by_size"].values()))
    result = {
        **{name: first[name] for name in ("ratio_vs_t5x", "ratio_vs_hf", "users_per_s")},
        **{
            name: {size: entry[name] for size, entry in result["by_size"].items()}
            for name in ("constraint_overhead", "index_bytes_per_item", "build_s")
        },
        **result,
        "rounds": rounds,
        "peer_rounds": peer_rounds,
        "dtype": dtype,
        "unevenness": unevenness,
        "seed": seed,
        "peak_memory_bytes": peak_memory(),
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    if output:
        record(output, result)
    return result


def catalogue(num_items: int, seed: int, unevenness: float = 0.5) -> np.ndarray:
    """Semantic IDs [N + 1, 4] in random order: uneven codes, then a collision token."""
    random = np.random.default_rng(seed)
    key_N = np.zeros(num_items, np.int32)
    for size in SIZES[:3]:
        shares = np.exp(unevenness * random.normal(size=size))
        code_N = np.searchsorted(np.cumsum(shares / shares.sum()), random.random(num_items))
        key_N = key_N * size + np.minimum(code_N, size - 1).astype(np.int32)
    key_N.sort()
    first_N = np.flatnonzero(np.diff(key_N, prepend=-1))
    counts = np.diff(first_N, append=num_items)
    collision_N = np.arange(num_items, dtype=np.int32) - np.repeat(first_N, counts).astype(np.int32)
    order_N = random.permutation(num_items) + 1
    semantic_ids_NI = np.zeros((num_items + 1, 4), np.int32)
    for part, column_N in enumerate((key_N >> 16, key_N >> 8 & 255, key_N & 255, collision_N)):
        semantic_ids_NI[order_N, part] = column_N
    return semantic_ids_NI


def race(
    contestants: dict[str, Callable], tokens_BS: np.ndarray, rounds: int, peer_rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each search by contestant, by the clock and of the processors; all are warm."""
    for search in contestants.values():
        search(tokens_BS)
    seconds = {name: [] for name in contestants}
    cpu_seconds = {name: [] for name in contestants}
    for number in range(rounds):
        for name, search in contestants.items():
            if number < peer_rounds or name in ("tiger_jax", "unconstrained"):
                started, cpu_started = time.perf_counter(), time.process_time()
                search(tokens_BS)
                seconds[name].append(time.perf_counter() - started)
                cpu_seconds[name].append(time.process_time() - cpu_started)
    return seconds, cpu_seconds


def _ratios(
    seconds: dict[str, list[float]], cpu_seconds: dict[str, list[float]], num_users: int
) -> dict:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = medians["tiger_jax"]
    overheads = sorted(1 / value - 1 for value in _paired(seconds, "unconstrained"))

    def ratio(name):
        return statistics.median(_paired(seconds, name)) if name in seconds else None

    return {
        "ratio_vs_t5x": ratio("t5x"),
        "ratio_vs_t5x_with_eos": ratio("t5x_with_eos"),
        "ratio_vs_hf": ratio("hf"),
        "users_per_s": num_users / ours,
        "users_per_s_of_all": {name: num_users / value for name, value in medians.items()},
        "cpu_ratios": {
            name: statistics.median(times) / statistics.median(cpu_seconds["tiger_jax"])
            for name, times in cpu_seconds.items()
        },
        "constraint_overhead": statistics.median(overheads),
        "constraint_overhead_quartiles": [
            overheads[len(overheads) // 4],
            overheads[-1 - len(overheads) // 4],
        ],
        "seconds": seconds,
    }


def _paired(seconds: dict[str, list[float]], name: str) -> list[float]:
    """Time of a contestant over this search's in the same round: other work falls on both."""
    pairs = zip(seconds[name], seconds["tiger_jax"], strict=False)
    return [theirs / ours for theirs, ours in pairs]


def histories(model: TigerModel, semantic_ids_NI: np.ndarray, num_users: int, seed: int):
    """A user token and 20 items each, int32 [B, S]."""
    random = np.random.default_rng(seed + 1)
    items_BH = random.integers(1, len(semantic_ids_NI), (num_users, _NUM_INPUTS // 4))
    tokens_BS = model.vocabulary.tokens(semantic_ids_NI[items_BH]).reshape(num_users, -1)
    users_B = model.vocabulary.first_user_token + random.integers(0, 2000, num_users)
    return np.column_stack([users_B, tokens_BS]).astype(np.int32)


def _index(semantic_ids_NI: np.ndarray) -> tuple[Trie, dict]:
    """The index on the device; its size, and what building it takes."""
    trie, build = _built(lambda: Trie.from_semantic_ids(semantic_ids_NI, SIZES))
    started = time.perf_counter()
    trie = jax.block_until_ready(jax.device_put(trie))
    return trie, {
        "index_bytes_per_item": trie.num_bytes / (len(semantic_ids_NI) - 1),
        "item_number_bytes_per_item": trie.items_N.nbytes / (len(semantic_ids_NI) - 1),
        **build,
        "upload_s": time.perf_counter() - started,
        "levels": [type(level).__name__ for level in trie.levels],
    }


def _built(build: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What is built; seconds and processor seconds, the least of two builds."""
    times = []
    for _ in range(2):
        started, cpu_started = time.perf_counter(), time.process_time()
        built = build()
        times.append((time.perf_counter() - started, time.process_time() - cpu_started))
    seconds, cpu_seconds = map(min, zip(*times, strict=True))
    return built, {"build_s": seconds, "build_cpu_s": cpu_seconds}


def _static_index(semantic_ids_NI: np.ndarray) -> dict | None:
    """STATIC's index of the same IDs, which it wants sorted."""
    try:
        from static_decoding.csr_utils import build_static_index
    except ImportError:
        return None
    order = np.lexsort(semantic_ids_NI[1:].T[::-1])
    sorted_ids = np.ascontiguousarray(semantic_ids_NI[1:][order])
    index, build = _built(lambda: build_static_index(sorted_ids, vocab_size=SIZES[0]))
    return {
        **build,
        "index_bytes_per_item": sum(part.nbytes for part in index if hasattr(part, "nbytes"))
        / len(sorted_ids),
    }


@struct.dataclass
class _Anything:
    """A trie that allows everything and costs nothing."""

    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    @classmethod
    def over(cls, model: TigerModel) -> "_Anything":
        """All IDs of a model's vocabulary."""
        return cls(model.vocabulary.codebook_sizes)

    def allowed(self, level, nodes, open_edges=None):
        """Every code."""
        return jnp.ones((*nodes.shape, self.sizes[level]), bool)

    def only_code(self, level, nodes):
        """No level has single codes."""

    def child(self, level, nodes, codes):
        """One node for all."""
        return jnp.zeros_like(codes)


def _ours(model: TigerModel, params, trie, num_beams: int, normalize: str = "full") -> Callable:
    search = jax.jit(
        lambda params, trie, tokens_BS: beam.constrained_search(
            model, params, trie, tokens_BS, num_beams, normalize
        )
    )
    return lambda tokens_BS: jax.device_get(search(params, trie, tokens_BS))


def _peers(model: TigerModel, params, trie: Trie, num_beams: int) -> dict[str, Callable]:
    """Searches of those that are here: tokens [B, S] -> tokens [B, M, 4], scores [B, M]."""
    makers = {
        "t5x": functools.partial(_t5x, with_eos=False),
        "t5x_with_eos": functools.partial(_t5x, with_eos=True),
        "hf": _hugging_face,
    }
    found = {}
    for name, maker in makers.items():
        try:
            found[name] = maker(model, params, trie, num_beams)
        except ImportError as error:
            print(f"{name}: not here ({error})")
    return found


def _t5x(model: TigerModel, params, trie: Trie, num_beams: int, with_eos: bool) -> Callable:
    """T5X's network with its cache, and its beam search, as its models' `predict` has them.

    The constraint enters by the logits, so that its log softmax is over the tokens allowed.
    """
    from t5x import decoding
    from t5x.examples.t5 import network

    config = model.config
    module = network.Transformer(
        network.T5Config(
            vocab_size=config.vocab_size,
            emb_dim=config.emb_dim,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            dropout_rate=config.dropout_rate,
            logits_via_embedding=config.logits_via_embedding,
        )
    )
    num_steps = len(SIZES) + with_eos

    def masks(sequences_XT):
        """Tokens so far -> the tokens allowed at each step, bool [X, V] each."""
        codes_XI = sequences_XT[:, 1 : 1 + len(SIZES)] - model.vocabulary.level_offsets
        nodes_XI = jnp.pad(trie.walk(codes_XI), ((0, 0), (1, 0)))
        for level, offset in enumerate(model.vocabulary.level_offsets.tolist()):
            allowed = trie.allowed(level, nodes_XI[:, level])
            after = config.vocab_size - offset - allowed.shape[1]
            yield jnp.pad(allowed, ((0, 0), (offset, after)))
        yield jnp.zeros((len(sequences_XT), config.vocab_size), bool).at[:, EOS].set(True)

    @jax.jit
    def search(params, tokens_BS):
        batch = len(tokens_BS)
        targets_BT = jnp.zeros((batch, num_steps), jnp.int32)
        _, variables = module.apply(
            {"params": params},
            jnp.ones_like(tokens_BS),
            targets_BT,
            targets_BT,
            decode=True,
            enable_dropout=False,
            mutable=["cache"],
        )
        encoded_BSD = module.apply(
            {"params": params}, tokens_BS, enable_dropout=False, method=module.encode
        )
        encoded_XSD = decoding.flat_batch_beam_expand(encoded_BSD, num_beams)
        tokens_XS = decoding.flat_batch_beam_expand(tokens_BS, num_beams)

        def tokens_to_logits(state):
            logits, updated = module.apply(
                {"params": params, "cache": state.cache},
                encoded_XSD,
                tokens_XS,
                state.cur_token,
                state.cur_token,
                enable_dropout=False,
                decode=True,
                max_decode_length=num_steps,
                mutable=["cache"],
                method=module.decode,
            )
            branches = [
                functools.partial(lambda sequences, step: list(masks(sequences))[step], step=step)
                for step in range(num_steps)
            ]
            allowed = jax.lax.switch(state.cur_index, branches, state.sequences)
            return jnp.where(allowed, jnp.squeeze(logits, 1), -1e7), updated["cache"]

        return decoding.beam_search(
            targets_BT, variables["cache"], tokens_to_logits, EOS, num_beams, alpha=0.0
        )

    def run(tokens_BS):
        tokens_BMT, scores_BM = jax.device_get(search(params, tokens_BS))
        # Best last.
        return tokens_BMT[:, ::-1, : len(SIZES)], scores_BM[:, ::-1]

    return run


def _hugging_face(model: TigerModel, params, trie: Trie, num_beams: int) -> Callable:
    """`generate` with `prefix_allowed_tokens_fn` over a dictionary of prefixes."""
    import torch

    network = hugging_face_network(model.config, jax.device_get(params), eos_token_id=EOS)
    network.eval()
    following = {}
    for item in model.vocabulary.tokens(_sorted_ids(trie)).tolist():
        for length in range(len(item)):
            tokens = following.setdefault(tuple(item[:length]), [])
            if not tokens or tokens[-1] != item[length]:
                tokens.append(item[length])

    def run(tokens_BS):
        inputs = torch.tensor(tokens_BS, dtype=torch.long)
        with torch.no_grad():
            found = network.generate(
                input_ids=inputs,
                attention_mask=(inputs > 0).long(),
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_new_tokens=len(SIZES),
                length_penalty=0.0,
                do_sample=False,
                prefix_allowed_tokens_fn=lambda _, tokens: following[tuple(tokens[1:].tolist())],
                return_dict_in_generate=True,
                output_scores=True,
            )
        shape = (len(tokens_BS), num_beams)
        sequences = found.sequences[:, 1:].numpy()
        return sequences.reshape(*shape, -1), found.sequences_scores.numpy().reshape(shape)

    return run


def _sorted_ids(trie: Trie) -> np.ndarray:
    """All IDs [N, 4] in order, read back from the index."""
    prefixes_PI = np.zeros((1, 0), np.int64)
    for level, stored in enumerate(trie.levels):
        allowed = np.asarray(trie.allowed(level, np.arange(len(prefixes_PI))))
        parents, codes = np.nonzero(allowed)
        prefixes_PI = np.column_stack([prefixes_PI[parents], codes])
        del stored
    return prefixes_PI


def _require_equal_results(model, params, trie, contestants, tokens_BS, num_beams) -> None:
    """Compiles all, and compares the first 20 items of each user and their scores.

    Hugging Face normalises over the vocabulary, as this search does; T5X over the tokens allowed.
    """
    ids_NI = _sorted_ids(trie)
    valid = _ours(model, params, trie, num_beams, "valid")(tokens_BS)
    full = contestants["tiger_jax"](tokens_BS)
    contestants["unconstrained"](tokens_BS)
    for name in [name for name in contestants if name not in ("tiger_jax", "unconstrained")]:
        rows_BM, scores_BM = full if name == "hf" else valid
        ids_BMI = model.vocabulary.tokens(ids_NI[rows_BM[:, :_TOP]])
        tokens_BMI, found_BM = contestants[name](tokens_BS)
        difference = np.abs(found_BM[:, :_TOP] - scores_BM[:, :_TOP]).max()
        is_same_BM = (tokens_BMI[:, :_TOP] == ids_BMI).all(-1)
        gaps = np.abs(np.diff(scores_BM, axis=1, prepend=np.inf, append=-np.inf))
        is_tie_BM = np.minimum(gaps[:, :-1], gaps[:, 1:])[:, :_TOP] < _TOLERANCE
        print(f"{name}: {is_same_BM.mean():.2%} of items equal, scores within {difference:.1e}")
        if difference > _TOLERANCE or not (is_same_BM | is_tie_BM).all():
            raise artifacts.InputError(f"{name} finds other items: no ratio")


def main(argv=None):
    """Command line of the benchmark."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.decoding import main

    main()
