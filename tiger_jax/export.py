"""A trained recommender as one file that needs no code of this project to run.

Weights, Semantic IDs and the trie are inside. What a request means, `recommender.py` says.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.model import beam
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.filters import Restriction

_PLATFORMS = ("cpu", "cuda", "tpu")

_EXAMPLES = """
python -m tiger_jax.export --folder=work/beauty --run=tiger --output=work/beauty/served
python -m tiger_jax.export --folder=work/beauty --run=tiger --output=served --batch_size=1 --savedmodel
"""  # noqa: E501


def export(
    folder: str,
    run: str,
    output: str,
    batch_size: int = 64,
    num_results: int = 10,
    num_beams: int = 30,
    exclude_history: bool = True,
    savedmodel: bool = False,
    step: int | None = None,
) -> dict:
    """Writes OUTPUT/recommend.stablehlo, item_ids.json and export.json.

    The function takes user tokens int32 [B] (0: the model is told nothing of the user) and
    histories int32 [B, H] (item numbers, oldest first, 0 behind the last), and gives item numbers
    int32 [B, R] (0 in unused slots) and scores float32 [B, R], log p in nats. To run it, with JAX
    and flatbuffers, on CPU, CUDA and TPU:
    jax.export.deserialize(open(FILE, "rb").read()).call(user_tokens, histories).
    item_ids.json holds the raw id of each item number; export.json says how a raw user id becomes a
    token.

    Args:
      folder: the prepared folder.
      run: name of the run in it.
      output: folder for the files.
      batch_size: B; the function takes that many requests at a time.
      num_results: R, length of the lists.
      num_beams: width of the search.
      exclude_history: leaves out the items of the history.
      savedmodel: writes OUTPUT/savedmodel too, by jax2tf, with the signature serving_default;
        wants tensorflow.
      step: checkpoint of the run; the best one by validation if not given.
    """
    if not 1 <= num_results <= num_beams or batch_size < 1:
        raise InputError(
            f"num_results={num_results}, num_beams={num_beams}, batch_size={batch_size}: at least"
            " 1 result and 1 history, and as many beams as results"
        )
    if savedmodel:
        # Before anything is written.
        _require_tensorflow()
    recommender = Recommender.load(folder, run, step, num_beams=num_beams)
    serve = servable(recommender, num_results, exclude_history)
    shapes = (
        jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        jax.ShapeDtypeStruct((batch_size, recommender.max_history), jnp.int32),
    )
    try:
        data = jax.export.export(jax.jit(serve), platforms=_PLATFORMS)(*shapes).serialize()
    except ImportError as error:
        raise InputError(f"{error}: pip install -e '.[export]' in the checkout") from error
    vocabulary = recommender.model.vocabulary
    result = {
        "run": run,
        "step": recommender.step,
        "num_items": recommender.table.num_items,
        "table": recommender.table.checksum(),
        "batch_size": batch_size,
        "max_history": recommender.max_history,
        "num_results": num_results,
        "num_beams": num_beams,
        "exclude_history": exclude_history,
        "user_token": "first_user_token + fnv1a_32(utf-8 bytes of the raw id) % num_user_tokens",
        "first_user_token": vocabulary.first_user_token,
        "num_user_tokens": vocabulary.num_user_tokens,
        "platforms": _PLATFORMS,
        "bytes": len(data),
        **artifacts.provenance(),
    }
    with artifacts.all_together(output) as staging:
        with artifacts.atomic_path(staging / "recommend.stablehlo") as temporary:
            temporary.write_bytes(data)
        artifacts.save_json(staging / "item_ids.json", list(recommender.item_ids))
        artifacts.save_json(staging / "export.json", result)
        if savedmodel:
            # TensorFlow's StableHLO may be older than JAX's, and not know its top_k.
            serve = servable(recommender, num_results, exclude_history, _top_k_by_sorting)
            _write_savedmodel(staging / "savedmodel", serve, shapes)
    print(f"wrote {pathlib.Path(output, 'recommend.stablehlo')}: {len(data) / 1e6:.1f} MB")
    return result


def servable(
    recommender: Recommender,
    num_results: int,
    exclude_history: bool,
    top_k: Callable = jax.lax.top_k,
) -> Callable:
    """The function of arrays alone that `export` writes; see there."""
    model, params, trie = recommender.model, recommender.params, recommender.trie
    ids_NI = recommender.table.semantic_ids_NI
    tokens_NI = model.vocabulary.token_table(ids_NI)
    row_of_item_N = np.full(len(ids_NI), np.iinfo(np.int32).max, np.int32)
    row_of_item_N[np.asarray(trie.items_N)] = np.arange(recommender.table.num_items)

    def denied_ids(histories_BH):
        """In the order of the trie's rows, each item once, -1 behind the last."""
        rows_BH = jnp.sort(jnp.asarray(row_of_item_N)[histories_BH], axis=1)
        is_new_BH = jnp.pad(rows_BH[:, 1:] > rows_BH[:, :-1], ((0, 0), (1, 0)), constant_values=1)
        rows_BH = jnp.sort(jnp.where(is_new_BH, rows_BH, jnp.iinfo(jnp.int32).max), axis=1)
        is_item_BH = rows_BH < len(row_of_item_N)
        items_BH = trie.item_numbers(jnp.where(is_item_BH, rows_BH, -1))
        return jnp.where(is_item_BH[..., None], jnp.asarray(ids_NI)[items_BH], -1)

    def serve(user_tokens_B, histories_BH):
        tokens_BS = jnp.asarray(tokens_NI)[histories_BH].reshape(len(histories_BH), -1)
        # Attention is relative, so that a token 0 in front is no token at all.
        tokens_BS = jnp.concatenate([user_tokens_B[:, None], tokens_BS], axis=1)
        restriction = Restriction(denied_BDI=denied_ids(histories_BH) if exclude_history else None)
        rows_BM, scores_BM = beam.constrained_search(
            model,
            params,
            trie,
            tokens_BS,
            recommender.num_beams,
            restriction=restriction,
            top_k=top_k,
        )
        return trie.item_numbers(rows_BM)[:, :num_results], scores_BM[:, :num_results]

    return serve


def _top_k_by_sorting(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The same as `jax.lax.top_k`, ties included."""
    places = jnp.argsort(x, axis=-1, stable=True, descending=True)[..., :k]
    return jnp.take_along_axis(x, places, axis=-1), places


def _require_tensorflow() -> None:
    try:
        import tensorflow  # noqa: F401
        from jax.experimental import jax2tf  # noqa: F401
    except ImportError as error:
        raise InputError(f"a SavedModel wants tensorflow: {error}") from error


def _write_savedmodel(path: pathlib.Path, serve, shapes) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        serve, with_gradient=False, native_serialization_platforms=_PLATFORMS
    )
    specs = [
        tf.TensorSpec(shape.shape, tf.int32, name)
        for shape, name in zip(shapes, ("user_tokens", "histories"), strict=True)
    ]

    def signature(user_tokens, histories):
        items, scores = converted(user_tokens, histories)
        return {"item_numbers": items, "scores": scores}

    module = tf.Module()
    module.serve = tf.function(signature, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(path), signatures=module.serve)


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(export, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.export import main

    main()
