"""The training loop: batches, updates, resuming."""

import dataclasses
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_report
import test_run_log

from tiger_jax import batching, checkpoints, prepare, run_log, teach, train, train_state
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

NETWORK = NetworkConfig(
    vocab_size=80,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
    logits_via_embedding=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with random Semantic IDs named "ids"."""
    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("synthetic", str(folder), synthetic_users=200, synthetic_items=60)
    embeddings, source = content.load_embeddings(folder)
    codes = np.random.default_rng(0).integers(0, 8, (len(embeddings), 3))
    header = {"items_checksum": source["items_checksum"], "encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "ids" / "semantic_ids.npz")
    return folder


def settings(folder, run, **changes):
    standard = {
        "folder": str(folder),
        "ids": "ids",
        "run": run,
        "network": NETWORK,
        "optimizer": train_state.adafactor(train_state.rsqrt_schedule(0.01, 10)),
        "num_steps": 8,
        "batch_size": 16,
        "max_history": 6,
        "num_user_tokens": 10,
        "seed": 0,
        "eval_period": 4,
        "eval_users": 20,
        "num_beams": 10,
        "num_groups": 2,
        "steps_per_call": 2,
    }
    return {**standard, **changes}


def loaded(folder):
    sequences = Sequences.load(folder / "sequences.npz")
    table = SemanticIdTable.load(folder / "ids" / "ids" / "semantic_ids.npz")
    return sequences, table, Vocabulary(table.codebook_sizes, 10)


@pytest.mark.parametrize(("order_noise", "dropout"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_order_and_dropout_are_others_at_each_step(folder, order_noise, dropout):
    """Two steps that learn nothing, on the same rows: equal losses only where nothing is drawn."""
    sequences, table, vocabulary = loaded(folder)
    model = TigerModel(dataclasses.replace(NETWORK, dropout_rate=dropout), vocabulary)
    made = examples.prefix_examples(sequences, 6)
    step_fn = train.make_step_fn(
        model, optax.sgd(0.0), examples.LengthGroups((6,), (16,)), seed=0, order_noise=order_noise
    )
    state = train_state.TrainState.create(model.init(jax.random.key(0)), optax.sgd(0.0))
    data = batching.device_data(made, sequences, table, vocabulary)
    _, (first, second) = step_fn(state, data, np.stack([np.arange(16, dtype=np.int32)] * 2))
    assert np.array_equal(first, second) == (order_noise == dropout == 0.0)


def test_a_step_over_length_groups_is_the_step_over_the_padded_batch(folder):
    """Without dropout: the same gradient, so the same parameters, however examples are grouped."""
    sequences, table, vocabulary = loaded(folder)
    model = TigerModel(dataclasses.replace(NETWORK, dropout_rate=0.0), vocabulary)
    optimizer = optax.sgd(0.1)
    made = examples.prefix_examples(sequences, 6)
    data = batching.device_data(made, sequences, table, vocabulary)
    groups = examples.length_groups(made.lengths, 16, 3)
    rows = examples.epoch_plan(made.lengths, groups, 0, 0)[:2]
    params = model.init(jax.random.key(0))

    def mean_loss(params, rows):
        batch = batching.assemble(data, rows, 6)
        return model.loss_fn(params, batch, None)[0] / 16

    loss_and_gradients = jax.jit(jax.value_and_grad(mean_loss))
    expected, losses = params, []
    for step_rows in rows:
        loss, gradients = loss_and_gradients(expected, jnp.asarray(step_rows))
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, expected, gradients)
        losses.append(loss)
    step_fn = train.make_step_fn(model, optimizer, groups, seed=0)
    state = train_state.TrainState.create(params, optimizer)
    state, level_losses = step_fn(state, data, rows)
    np.testing.assert_allclose(level_losses.sum(axis=1), losses, rtol=1e-5)
    for found, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_step_on_sequences_is_the_step_on_all_their_prefixes(folder):
    """Without dropout: the same mean over items, so the same parameters."""
    sequences, table, vocabulary = loaded(folder)
    network = dataclasses.replace(NETWORK, dropout_rate=0.0, causal_encoder=True)
    model = TigerModel(network, vocabulary)
    optimizer = optax.sgd(0.1)
    whole = examples.sequence_examples(sequences, 20)
    assert whole.lengths.max() < 20  # none is cut
    prefixes = examples.prefix_examples(sequences, 20)
    rows = np.random.default_rng(0).permutation(len(whole))[:6]
    found, expected = (
        train.make_step_fn(model, optimizer, examples.LengthGroups((20,), (len(rows),)), seed=0)(
            train_state.TrainState.create(model.init(jax.random.key(0)), optimizer),
            batching.device_data(made, sequences, table, vocabulary),
            np.array(rows)[None],
        )
        for made, rows in (
            (whole, rows),
            (prefixes, np.flatnonzero(np.isin(prefixes.user_rows, whole.user_rows[rows]))),
        )
    )
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(found[0].params), jax.tree.leaves(expected[0].params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_user_tokens", [0, 20])
def test_a_step_on_packed_sequences_is_the_step_on_all_their_prefixes(folder, num_user_tokens):
    """Without dropout: the same mean over items, so the same parameters; cut sequences too."""
    sequences, table, _ = loaded(folder)
    vocabulary = Vocabulary(table.codebook_sizes, num_user_tokens)
    network = dataclasses.replace(NETWORK, dropout_rate=0.0, causal_encoder=True)
    model = TigerModel(network, vocabulary, "level")
    optimizer = optax.sgd(0.1)
    whole = examples.sequence_examples(sequences, 6)
    sizes = whole.lengths * vocabulary.id_length + bool(num_user_tokens)
    packed = examples.packing(sizes, 10)
    rows = examples.packed_plan(sizes, packed, 0, 0)[:1]
    # The same pairs one by one, each from as much history as its window has.
    pairs = [
        (whole.user_rows[row], target, whole.lengths[row] - (whole.targets[row] - target))
        for row in rows[rows >= 0]
        for target in range(whole.targets[row] - whole.num_targets[row] + 1, whole.targets[row] + 1)
    ]
    alone = examples.Examples(whole.items, *np.array(pairs, np.int32).T)
    found, expected = (
        train.make_step_fn(model, optimizer, composition, seed=0)(
            train_state.TrainState.create(model.init(jax.random.key(0)), optimizer),
            batching.device_data(made, sequences, table, vocabulary),
            rows,
        )
        for made, composition, rows in (
            (whole, packed, rows),
            (alone, examples.LengthGroups((6,), (len(alone),)), np.arange(len(alone))[None]),
        )
    )
    assert len(alone) > 20
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(found[0].params), jax.tree.leaves(expected[0].params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_teacher_who_expects_what_came_changes_nothing(folder):
    """On packed sequences with noise in their order, whose places the teacher does not follow."""
    sequences, table, vocabulary = loaded(folder)
    network = dataclasses.replace(NETWORK, dropout_rate=0.0, causal_encoder=True)
    model = TigerModel(network, vocabulary, "level")
    optimizer = optax.sgd(0.1)
    made = examples.sequence_examples(sequences, 6)
    packed, plan = batching.planned(made, vocabulary, 10, 1, 0)
    expected_PQ = np.stack([made.items, np.zeros_like(made.items)], axis=1)
    soft_targets = SoftTargets(expected_PQ, np.tile(np.float32([1, 0]), (len(made.items), 1)), {})
    (taught, losses), (plain, plain_losses) = (
        train.make_step_fn(model, optimizer, packed, seed=0, teacher_weight=weight)(
            train_state.TrainState.create(model.init(jax.random.key(0)), optimizer),
            batching.device_data(made, sequences, table, vocabulary, soft_targets),
            plan(0)[:2],
        )
        for weight in (0.7, 0.0)
    )
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (taught.params, plain.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_of_several_batches_make_one_step(folder):
    """`optax.MultiSteps` as the optimizer: two batches of 8 move as one of 16."""
    sequences, table, vocabulary = loaded(folder)
    model = TigerModel(dataclasses.replace(NETWORK, dropout_rate=0.0), vocabulary)
    made = examples.prefix_examples(sequences, 6)
    data = batching.device_data(made, sequences, table, vocabulary)
    rows = np.random.default_rng(0).permutation(len(made))[:16]
    params = []
    for optimizer, batches in (
        (optax.MultiSteps(optax.sgd(0.1), 2), rows.reshape(2, 8)),
        (optax.sgd(0.1), rows[None]),
    ):
        groups = examples.LengthGroups((6,), (batches.shape[1],))
        step_fn = train.make_step_fn(model, optimizer, groups, seed=0)
        state = train_state.TrainState.create(model.init(jax.random.key(0)), optimizer)
        params.append(step_fn(state, data, batches)[0].params)
    for one, other in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_run_on_sequences_with_a_teacher_resumes_to_the_same_bits(folder):
    teach.teach(str(folder), num_expected=20, imagined_users=30)
    changes = {
        "train_on": "sequences",
        "teacher_weight": 0.5,
        "imagined_users": 30,
        "network": dataclasses.replace(NETWORK, causal_encoder=True),
    }
    with pytest.raises(InputError, match="have 30 imagined users, this training is to have 29"):
        train.train(**settings(folder, "others", **changes | {"imagined_users": 29}))
    train.train(**settings(folder, "sequences", **changes))
    train.train(**settings(folder, "sequences_halves", num_steps=4, **changes))
    train.train(**settings(folder, "sequences_halves", **changes))
    assert_same_run(folder / "runs" / "sequences", folder / "runs" / "sequences_halves")


def test_a_run_goes_on_with_its_own_teacher_alone(folder):
    teach.teach(str(folder), num_expected=20)
    changes = {"normalize": "level", "teacher_weight": 0.5}
    train.train(**settings(folder, "taught", num_steps=4, **changes))
    teach.teach(str(folder), num_expected=5)
    with pytest.raises(InputError, match="the run was begun with soft_targets = "):
        train.train(**settings(folder, "taught", **changes))
    with pytest.raises(InputError, match="the run was begun with teacher_weight = "):
        train.train(**settings(folder, "taught", normalize="level"))


def test_a_teacher_must_be_there_and_have_a_share(folder):
    with pytest.raises(InputError, match=r"teacher_weight is 1\.5; give 0 to 1"):
        train.train(**settings(folder, "untaught", teacher_weight=1.5))
    with pytest.raises(InputError, match=r"order_noise=1\.0: the teacher knows"):
        train.train(**settings(folder, "untaught", teacher_weight=0.5, order_noise=1.0))
    (folder / "soft_targets.npz").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"soft_targets\.npz: no such file; .*tiger_jax\.teach"):
        train.train(**settings(folder, "untaught", teacher_weight=0.5))
    assert not (folder / "runs" / "untaught").exists()


def test_training_on_sequences_needs_an_encoder_that_cannot_see_the_items(folder):
    with pytest.raises(InputError, match=r"set NetworkConfig\.causal_encoder = True"):
        train.train(**settings(folder, "sees", train_on="sequences"))
    with pytest.raises(InputError, match="train_on is 'users'; choose 'prefixes' or 'sequences'"):
        train.train(**settings(folder, "sees", train_on="users"))
    with pytest.raises(InputError, match=r"order_noise is -1\.0; give 0 or more items"):
        train.train(**settings(folder, "sees", order_noise=-1.0))
    with pytest.raises(InputError, match=r"max_history is 0; give 1 or more"):
        train.train(**settings(folder, "sees", max_history=0))
    assert not (folder / "runs" / "sees").exists()


def test_loss_falls_best_checkpoint_is_kept_and_guard_rails_are_logged(folder):
    result = train.train(**settings(folder, "learns", num_steps=40, eval_period=10))
    run = folder / "runs" / "learns"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30, 40]
    assert sum(records[-1]["train_losses"]) < sum(records[0]["train_losses"])
    best = max(records, key=lambda record: record["ndcg@10"])
    assert result["best"] == {"step": best["step"], "ndcg@10": best["ndcg@10"]}
    assert set(checkpoints.steps(run / "checkpoints")) == {best["step"], 40}
    assert {"losses_without_encoder", "bigram_first_code_loss", "distinct_items"} <= set(best)
    events = test_run_log.scalars(run / run_log.EVENTS)
    for record in records:
        for place, loss in enumerate(record["train_losses"], 1):
            assert events[record["step"], f"train_losses/part_{place}"] == pytest.approx(loss)
        for name in ("recall@10", "distinct_items"):
            assert events[record["step"], name] == pytest.approx(record[name])
    assert {step for step, _ in events} == {10, 20, 30, 40}
    page = test_report.require_page(run / "report.html")
    assert f"{best['ndcg@10']:.4f}" in page.texts


def test_a_resumed_run_ends_in_the_same_bits(folder):
    train.train(**settings(folder, "whole", order_noise=1.0))
    train.train(**settings(folder, "halves", order_noise=1.0, num_steps=4))
    train.train(**settings(folder, "halves", order_noise=1.0))
    assert_same_run(folder / "runs" / "whole", folder / "runs" / "halves")
    # As if killed while it cleared up at its end: the next start does it.
    leftover = folder / "runs" / "halves" / "checkpoints" / ".checkpoint_4.deleted"
    leftover.mkdir()
    page = folder / "runs" / "halves" / "report.html"
    half_written = page.with_name(".report.html.abcdefgh.tmp")
    page.rename(half_written)
    train.train(**settings(folder, "halves", order_noise=1.0))
    assert not leftover.exists()
    assert not half_written.exists()
    assert page.exists()
    assert_same_run(folder / "runs" / "whole", folder / "runs" / "halves")


def assert_same_run(left, right):
    assert (left / "metrics.jsonl").read_text() == (right / "metrics.jsonl").read_text()
    assert checkpoints.steps(left / "checkpoints") == checkpoints.steps(right / "checkpoints")
    assert_same_params(left, right, checkpoints.steps(left / "checkpoints")[-1])


def assert_same_params(left, right, step):
    _, _, vocabulary = loaded(left.parent.parent)
    like = TigerModel(NETWORK, vocabulary).init(jax.random.key(0))
    for one, other in zip(
        jax.tree.leaves(checkpoints.load_params(left / "checkpoints", step, like)),
        jax.tree.leaves(checkpoints.load_params(right / "checkpoints", step, like)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_training_goes_on_while_a_checkpoint_is_written(folder, monkeypatch):
    """A save that waits for the next steps sees them, and still writes the state before them."""
    train.train(**settings(folder, "stops", num_steps=4))
    went_on = threading.Event()
    save, batch_rows = checkpoints.save, batching.batch_rows

    def save_later(*arguments):
        assert went_on.wait(60)
        save(*arguments)

    def noticed(plan, batches, first, count):
        if first >= 6:  # the steps 5 and 6 are taken
            went_on.set()
        return batch_rows(plan, batches, first, count)

    monkeypatch.setattr(checkpoints, "save", save_later)
    monkeypatch.setattr(checkpoints, "keep", lambda folder, wanted: None)
    monkeypatch.setattr(batching, "batch_rows", noticed)
    train.train(**settings(folder, "goes_on"))
    assert checkpoints.steps(folder / "runs" / "goes_on" / "checkpoints") == [4, 8]
    assert_same_params(folder / "runs" / "stops", folder / "runs" / "goes_on", 4)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(folder, monkeypatch):
    def full(*arguments):
        raise InputError("no space left")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(InputError, match="no space left"):
        train.train(**settings(folder, "full"))


def test_another_configuration_does_not_go_on_with_a_run(folder):
    train.train(**settings(folder, "mine", num_steps=4))
    faster = train_state.adafactor(train_state.rsqrt_schedule(0.02, 10))
    for name, value, said in (
        ("seed", 1, "seed = 0, now it is 1; give this run"),
        ("eval_users", 21, "eval_users = 20, now it is 21"),
        ("optimizer", faster, "optimizer = "),
    ):
        with pytest.raises(InputError, match=f"begun with {said}"):
            train.train(**settings(folder, "mine", **{name: value}))


def test_a_schedule_must_not_end_before_the_run(folder):
    short = train_state.adafactor(train_state.cosine_schedule(0.01, 2, 6))
    with pytest.raises(InputError, match=r"rate is 0 at step 7 of num_steps=8: the schedule ends"):
        train.train(**settings(folder, "short", optimizer=short))
    assert not (folder / "runs" / "short").exists()


def test_ids_must_not_know_what_is_to_be_predicted(folder):
    """IDs of items that came together, before the folder was prepared with other ties."""
    table = SemanticIdTable.load(folder / "ids" / "ids" / "semantic_ids.npz")
    header = table.header | {"interactions_checksum": "others"}
    dataclasses.replace(table, header=header).save(folder / "ids" / "old" / "semantic_ids.npz")
    with pytest.raises(InputError, match="ids=old: they tell which items came together in other"):
        train.train(**settings(folder, "leak", ids="old"))


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("batch_size", 0, 1),
        ("num_groups", 0, 1),
        ("steps_per_call", 0, 1),
        ("eval_period", 0, 1),
        ("num_beams", 0, 1),
        ("num_steps", 0, 1),
        ("seed", -1, 0),
        ("eval_users", -1, 0),
        ("num_user_tokens", -1, 0),
        ("group_multiple", -1, 0),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_written(
    folder, name, value, least
):
    with pytest.raises(InputError, match=f"^{name} is {value}; give {least} or more"):
        train.train(**settings(folder, "nonsense", **{name: value}))
    assert not (folder / "runs" / "nonsense").exists()


@pytest.mark.parametrize("name", ["", "../elsewhere", "a/b", ".."])
def test_a_run_has_a_plain_name(folder, name):
    with pytest.raises(InputError, match=r"^run='.*': give a name, without /"):
        train.train(**settings(folder, name))


def test_periods_must_be_whole_calls(folder):
    with pytest.raises(InputError, match="is 3, no multiple of steps_per_call, 2; change one"):
        train.train(**settings(folder, "odd", eval_period=3))
    train.train(**settings(folder, "odd", num_steps=4))
    with pytest.raises(InputError, match="the last checkpoint's step is 4, no multiple of"):
        train.train(**settings(folder, "odd", num_steps=12, eval_period=6, steps_per_call=6))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(folder):
    def explode(step):  # after step 4 no parameter is finite, so step 5 has no finite loss
        return jnp.where(step < 4, 0.01, jnp.inf)

    with pytest.raises(InputError, match=r"the loss is not finite at step 6; .*checkpoint_4"):
        train.train(**settings(folder, "explodes", num_steps=12, optimizer=optax.sgd(explode)))
    assert checkpoints.steps(folder / "runs" / "explodes" / "checkpoints") == [4]
