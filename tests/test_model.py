"""The network against an independent T5 in numpy, its sizes, its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tiger_jax.artifacts import InputError
from tiger_jax.model import layers
from tiger_jax.model.model import TigerModel, num_parameters, shares_below, shift_right
from tiger_jax.model.network import NetworkConfig
from tiger_jax.products import product
from tiger_jax.vocabulary import Vocabulary

PAPER = Vocabulary((256, 256, 256, 256), 2000)
SMALL = Vocabulary((5, 4, 3), 6)


def small_config(**changes):
    sizes = {
        "vocab_size": SMALL.size,
        "emb_dim": 8,
        "num_heads": 2,
        "head_dim": 3,
        "mlp_dim": 16,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "dropout_rate": 0.5,
        "logits_via_embedding": True,
    }
    return NetworkConfig(**{**sizes, **changes})


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    tokens = random.integers(1, SMALL.size, (4, 9))
    tokens[1, 5:] = 0
    tokens[2, 1:] = 0
    codes = random.integers(0, SMALL.codebook_sizes, (4, 3))
    return {
        "encoder_input_tokens": jnp.asarray(tokens),
        "decoder_target_tokens": jnp.asarray(SMALL.tokens(codes)),
    }


# --- An independent T5, one example and one head at a time ---


def numpy_norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def numpy_bucket(distance, bidirectional):
    """T5's relative position bucket of key minus query, by its published description."""
    buckets = 32
    offset = 0
    if bidirectional:
        buckets = 16
        if distance > 0:
            offset = 16
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    log = int(np.log(distance / exact) / np.log(128 / exact) * (buckets - exact))
    return offset + min(exact + log, buckets - 1)


def numpy_attention(p, config, x, source, allowed, table=None, bidirectional=True):
    heads = []
    for head in range(config.num_heads):
        columns = slice(head * config.head_dim, (head + 1) * config.head_dim)
        query, key, value = (
            array @ p[name]["kernel"][:, columns]
            for array, name in ((x, "query"), (source, "key"), (source, "value"))
        )
        logits = query @ key.T
        if table is not None:
            for i in range(len(x)):
                for j in range(len(source)):
                    logits[i, j] += table[head, numpy_bucket(j - i, bidirectional)]
        logits = np.where(allowed, logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value)
    return np.concatenate(heads, -1) @ p["out"]["kernel"]


def numpy_mlp(p, x):
    return np.maximum(x @ p["wi"]["kernel"], 0) @ p["wo"]["kernel"]


def numpy_logits(params, config, source_tokens, target_inputs):
    """Logits of one example whose source holds no padding."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    embedding = p["token_embedder"]["embedding"]
    both_ways = not config.causal_encoder
    seen = np.ones((len(source_tokens),) * 2, bool)
    if config.causal_encoder:
        seen = np.tril(seen)
    x = embedding[source_tokens]
    table = p["encoder"]["relpos_bias"]["rel_embedding"]
    for index in range(config.num_encoder_layers):
        layer = p["encoder"][f"layers_{index}"]
        normed = numpy_norm(x, layer["pre_attention_layer_norm"]["scale"])
        x = x + numpy_attention(layer["attention"], config, normed, normed, seen, table, both_ways)
        x = x + numpy_mlp(layer["mlp"], numpy_norm(x, layer["pre_mlp_layer_norm"]["scale"]))
    encoded = numpy_norm(x, p["encoder"]["encoder_norm"]["scale"])
    causal = np.tri(len(target_inputs), dtype=bool)
    to_source = np.ones((len(target_inputs), len(encoded)), bool)
    y = embedding[target_inputs]
    table = p["decoder"]["relpos_bias"]["rel_embedding"]
    for index in range(config.num_decoder_layers):
        layer = p["decoder"][f"layers_{index}"]
        normed = numpy_norm(y, layer["pre_self_attention_layer_norm"]["scale"])
        y = y + numpy_attention(
            layer["self_attention"], config, normed, normed, causal, table, bidirectional=False
        )
        normed = numpy_norm(y, layer["pre_cross_attention_layer_norm"]["scale"])
        y = y + numpy_attention(
            layer["encoder_decoder_attention"], config, normed, encoded, to_source
        )
        y = y + numpy_mlp(layer["mlp"], numpy_norm(y, layer["pre_mlp_layer_norm"]["scale"]))
    y = numpy_norm(y, p["decoder"]["decoder_norm"]["scale"])
    if config.logits_via_embedding:
        return y @ embedding.T / np.sqrt(config.emb_dim)
    return y @ p["decoder"]["logits_dense"]["kernel"]


@pytest.mark.parametrize(("tied", "causal"), [(True, False), (False, False), (True, True)])
def test_network_equals_an_independent_t5_and_ignores_padding(key, batch, tied, causal):
    config = small_config(logits_via_embedding=tied, causal_encoder=causal)
    model = TigerModel(config, SMALL)
    # Scales and biases away from their initial ones, so that each of them counts.
    params = jax.tree.map(lambda leaf: leaf * 1.3 + 0.01, model.init(key))
    inputs = shift_right(batch["decoder_target_tokens"])
    found = jax.jit(model.module.apply)({"params": params}, batch["encoder_input_tokens"], inputs)
    for row, tokens in enumerate(np.asarray(batch["encoder_input_tokens"])):
        expected = numpy_logits(params, config, tokens[tokens > 0], np.asarray(inputs[row]))
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)


def test_buckets_equal_t5s_at_all_distances():
    distances = np.arange(-200, 201)
    for bidirectional in (True, False):
        bias = layers.RelativePositionBias(2, bidirectional)
        expected = [numpy_bucket(distance, bidirectional) for distance in distances.tolist()]
        assert bias.bucket(distances).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"vocab_size": 32128, "logits_via_embedding": False}, 12_684_416),
        ({"vocab_size": 3026, "logits_via_embedding": True}, 4_846_976),
        ({"vocab_size": 3026, "logits_via_embedding": False}, 5_234_304),
    ],
)
def test_number_of_parameters(changes, count):
    config = small_config(
        emb_dim=128,
        num_heads=6,
        head_dim=64,
        mlp_dim=1024,
        num_encoder_layers=4,
        num_decoder_layers=4,
        **changes,
    )
    model = TigerModel(config, PAPER)
    assert num_parameters(jax.eval_shape(model.init, jax.random.key(0))) == count


def test_every_parameter_has_named_axes(key):
    model = TigerModel(small_config(logits_via_embedding=False), SMALL)
    tokens = jnp.ones((1, 4), jnp.int32)
    variables = jax.eval_shape(model.module.init, key, tokens, tokens)
    shapes = jax.tree_util.tree_leaves_with_path(variables["params"])
    axes = jax.tree_util.tree_leaves_with_path(
        variables["params_axes"], is_leaf=lambda x: hasattr(x, "names")
    )
    named = {jax.tree_util.keystr(path).replace("_axes", ""): leaf.names for path, leaf in axes}
    assert {jax.tree_util.keystr(path) for path, _ in shapes} == set(named)
    for path, leaf in shapes:
        assert len(named[jax.tree_util.keystr(path)]) == leaf.ndim


@pytest.mark.parametrize("normalize", ["full", "level"])
def test_loss_is_the_log_probability_of_the_item(key, batch, normalize):
    model = TigerModel(small_config(), SMALL, normalize)
    params = model.init(key)
    loss, aux = jax.jit(model.loss_fn)(params, batch, None)
    targets = np.asarray(batch["decoder_target_tokens"])
    inputs = shift_right(jnp.asarray(targets))
    logits = jax.jit(model.module.apply)({"params": params}, batch["encoder_input_tokens"], inputs)
    logits = np.asarray(logits)
    expected = np.zeros(3)
    for row in range(4):
        for level, token in enumerate(targets[row]):
            first = SMALL.level_offsets[level]
            block = slice(first, first + SMALL.codebook_sizes[level])
            among = logits[row, level] if normalize == "full" else logits[row, level, block]
            expected[level] += np.log(np.exp(among).sum()) - logits[row, level, token]
    np.testing.assert_allclose(aux["level_losses"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("normalize", ["full", "level"])
def test_a_drawn_item_costs_on_average_what_the_distribution_does(key, batch, normalize):
    """Sum over items of share x loss of that item = -sum of share x log p(item), for 5 items.

    Some share their first codes with others, one slot is empty.
    """
    model = TigerModel(small_config(), SMALL, normalize)
    params = model.init(key)
    tokens_QI = SMALL.tokens(np.array([[0, 1, 2], [0, 1, 0], [0, 3, 1], [4, 1, 2], [3, 0, 0]]))
    tokens_QI = np.vstack([tokens_QI, np.zeros((1, 3), int)])
    shares_Q = np.array([0.4, 0.3, 0.1, 0.15, 0.05, 0.0])
    loss_fn = jax.jit(model.loss_fn)

    def losses(item, **expected):
        targets = np.tile(tokens_QI[item], (4, 1))
        changed = {**batch, "decoder_target_tokens": jnp.asarray(targets), **expected}
        return loss_fn(params, changed, None)

    expected = {
        "expected_tokens": jnp.asarray(np.tile(tokens_QI, (4, 1, 1))),
        "shares": jnp.asarray(np.tile(shares_Q, (4, 1))),
    }
    found, alone = ([losses(item, **kind)[0] for item in range(5)] for kind in (expected, {}))
    assert np.dot(shares_Q[:5], found) == pytest.approx(np.dot(shares_Q[:5], alone), rel=1e-5)
    # The last part of an ID that nobody else begins like is the item's alone.
    with_others, by_itself = (losses(4, **kind)[1]["level_losses"] for kind in (expected, {}))
    np.testing.assert_allclose(with_others[1:], by_itself[1:], rtol=1e-5)
    assert abs(with_others[0] - by_itself[0]) > 1e-3


def test_shares_below_a_prefix_as_worked_by_hand():
    tokens_XQT = jnp.array([[[1, 2], [1, 3], [4, 2], [1, 2]]])
    shares_XQ = jnp.array([[0.1, 0.2, 0.5, 0.2]])
    found = shares_below(jnp.array([[1, 2]]), tokens_XQT, shares_XQ)
    np.testing.assert_allclose(found[0].T, [[0.1, 0.2, 0.5, 0.2], [0.2, 0.4, 0.0, 0.4]], rtol=1e-6)


def test_later_targets_do_not_reach_earlier_logits(key, batch):
    model = TigerModel(small_config(), SMALL)
    params = model.init(key)
    source = batch["encoder_input_tokens"]
    inputs = shift_right(batch["decoder_target_tokens"])
    apply = jax.jit(model.module.apply)
    logits = apply({"params": params}, source, inputs)
    changed = apply({"params": params}, source, inputs.at[:, 2].set(2))
    np.testing.assert_array_equal(logits[:, :2], changed[:, :2])
    assert (logits[:, 2] != changed[:, 2]).any()


@pytest.mark.parametrize("normalize", ["full", "level"])
def test_items_of_a_sequence_cost_together_what_they_cost_one_by_one(key, normalize):
    model = TigerModel(small_config(causal_encoder=True), SMALL, normalize)
    params = model.init(key)
    loss_fn = jax.jit(model.loss_fn)
    random = np.random.default_rng(1)
    lengths, user = [5, 2], 13
    source, visible = np.zeros((2, 1 + 5 * 3), np.int32), np.zeros((2, 5), np.int32)
    targets = np.zeros((2, 5, 3), np.int32)
    expected = np.zeros(3)
    for row, length in enumerate(lengths):
        items = SMALL.tokens(random.integers(0, SMALL.codebook_sizes, (length + 1, 3)))
        source[row, 0] = user + row
        source[row, 1 : 1 + 3 * length] = items[:-1].ravel()
        targets[row, :length] = items[1:]
        # The first item of the longer sequence is left out: another example has predicted it.
        for place in range(1 if row == 0 else 0, length):
            visible[row, place] = 1 + 3 * (place + 1)
            is_seen = np.arange(source.shape[1]) < visible[row, place]
            alone = {
                "encoder_input_tokens": np.where(is_seen, source[row], 0)[None],
                "decoder_target_tokens": items[place + 1][None],
            }
            expected += loss_fn(params, alone, None)[1]["level_losses"]
    batch = {
        "encoder_input_tokens": source,
        "decoder_target_tokens": targets,
        "num_visible": visible,
    }
    loss, aux = loss_fn(params, batch, None)
    assert aux["num_targets"] == 6
    np.testing.assert_allclose(aux["level_losses"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)


def test_layers_computed_again_in_the_backward_pass_have_the_same_gradient(key, batch):
    plain, again = (
        TigerModel(small_config(rematerialise=rematerialise), SMALL)
        for rematerialise in (False, True)
    )
    params = plain.init(key)
    assert jax.tree.structure(again.init(key)) == jax.tree.structure(params)

    def gradient(model):
        return jax.jit(jax.grad(lambda params: model.loss_fn(params, batch, jax.random.key(3))[0]))

    program = str(jax.make_jaxpr(gradient(again))(params))
    assert program.count("remat") >= 4  # each of 2 + 2 layers
    for one, other in zip(
        jax.tree.leaves(gradient(plain)(params)),
        jax.tree.leaves(gradient(again)(params)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_dropout_changes_the_loss_only_where_it_is_asked_for(key, batch):
    model = TigerModel(small_config(), SMALL)
    params = model.init(key)
    loss_fn = jax.jit(model.loss_fn)
    plain = [loss_fn(params, batch, None)[0] for _ in range(2)]
    dropped = [loss_fn(params, batch, jax.random.key(seed))[0] for seed in (1, 1, 2)]
    assert plain[0] == plain[1]
    assert dropped[0] == dropped[1]
    assert len({float(plain[0]), float(dropped[0]), float(dropped[2])}) == 3


def test_product_has_the_gradient_of_an_einsum(key):
    a, b = jax.random.normal(key, (3, 4, 5)), jax.random.normal(key, (3, 6, 5))
    check_grads(
        lambda a, b: product("BXK,BYK->BXY", a, b, jnp.dtype("float32")),
        (a, b),
        order=1,
        modes=("rev",),
    )


@pytest.mark.parametrize(
    ("spec", "shape_a", "shape_b"),
    [
        ("YX,XF->YF", (48, 8), (8, 64)),  # the narrower factor is `a`
        ("YX,XF->YF", (48, 64), (64, 8)),  # it is the cotangent, and the result is turned
        ("YX,XF->YF", (1, 8), (8, 1)),
        ("BHTK,BHSK->BHTS", (2, 3, 20, 8), (2, 3, 33, 8)),
        ("BHTS,BHSK->BHTK", (2, 3, 20, 33), (2, 3, 33, 8)),
        ("BHTS,BHSK->BHTK", (2, 1, 4, 4), (2, 1, 4, 64)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_of_every_form_have_the_gradients_of_an_einsum(key, spec, shape_a, shape_b, dtype):
    """Small integers, which bfloat16 holds and float32 sums exactly: equal to the last bit."""

    def gradients(product):
        def loss(a, b):
            return jnp.sum(product(a, b) * jax.random.randint(key, out_shape, -3, 4))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(a, b)

    a = jax.random.randint(key, shape_a, -3, 4).astype(jnp.float32)
    b = jax.random.randint(jax.random.fold_in(key, 1), shape_b, -3, 4).astype(jnp.float32)
    out_shape = jnp.einsum(spec, a, b).shape
    ours = gradients(lambda a, b: product(spec, a, b, jnp.dtype(dtype)))
    plain = gradients(lambda a, b: jnp.einsum(spec, a, b))
    np.testing.assert_array_equal(ours[0], plain[0])
    np.testing.assert_array_equal(ours[1], plain[1])


def test_only_a_cpu_turns_its_factors():
    """Other matrix units take any layout; a copy would be wasted there."""
    shapes = jax.ShapeDtypeStruct((48, 8), jnp.float32), jax.ShapeDtypeStruct((8, 64), jnp.float32)
    traced = jax.jit(
        jax.grad(
            lambda a, b: product("YX,XF->YF", a, b, jnp.dtype("bfloat16")).sum(),
            argnums=(0, 1),
        )
    ).trace(*shapes)
    copies = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("barrier")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert copies["cpu"] > 0
    assert copies["cuda"] == copies["tpu"] == 0


def test_product_rounds_only_its_factors(key):
    """In bfloat16: exact for factors that bfloat16 holds, also where their sum needs float32."""
    a = jnp.array([[256.0, 1.0, 0.5]])
    b = jnp.array([[1.0], [1.0], [0.0078125]])
    bfloat16 = jnp.dtype("bfloat16")
    value, gradients = jax.value_and_grad(
        lambda a, b: product("XY,YZ->XZ", a, b, bfloat16).sum(), argnums=(0, 1)
    )(a, b)
    assert value == 257.00390625
    np.testing.assert_array_equal(gradients[0], b.T)
    np.testing.assert_array_equal(gradients[1], a.T)


def test_bfloat16_products_stay_near_float32(key, batch):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = TigerModel(small_config(dtype=dtype), SMALL)
        params = model.init(key)
        loss, gradients = jax.value_and_grad(
            lambda params, model=model: model.loss_fn(params, batch, None)[0]
        )(params)
        losses[dtype] = float(loss)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_vocabulary_must_fit_the_embedding():
    with pytest.raises(InputError, match="vocab_size is 19, but the IDs and users need 20"):
        TigerModel(small_config(vocab_size=19), SMALL)
    with pytest.raises(InputError, match="normalize is 'valid'"):
        TigerModel(small_config(), SMALL, "valid")
    with pytest.raises(InputError, match="num_heads is 0; give 1 or more"):
        small_config(num_heads=0)
    with pytest.raises(InputError, match=r"dropout_rate is 1\.0"):
        small_config(dropout_rate=1.0)
    with pytest.raises(InputError, match="dtype is 'float17'"):
        small_config(dtype="float17")
