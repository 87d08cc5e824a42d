"""SASRec against numpy, against hand-made losses, and on chains that it must learn."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tiger_jax import artifacts, checkpoints, sasrec, train_sasrec
from tiger_jax.artifacts import InputError
from tiger_jax.data import examples
from tiger_jax.data.sequences import SEQUENCES, Sequences, items_checksum
from tiger_jax.sasrec import SasRec, SasRecConfig, SasRecNetwork, item_losses
from tiger_jax.train_state import TrainState

NUM_ITEMS = 12
CONFIG = SasRecConfig(
    width=8, num_layers=2, num_heads=2, mlp_dim=12, dropout_rate=0.0, max_history=5
)
HISTORIES = [[3, 1, 4, 1, 5, 9, 2], [7], [2, 7, 1], []]


@pytest.fixture(scope="module")
def params():
    """Parameters none of which is 0 or 1, as those of norms and biases are at the start."""
    params = sasrec.init(CONFIG, NUM_ITEMS, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


# --- The network in numpy, one history at a time ---


def norm(x, p):
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]
    )


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def numpy_log_probabilities(params, history):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    items = list(history[-CONFIG.max_history :]) or [0]
    x = p["item_embedding"][items] + p["position_embedding"][: len(items)]
    x = norm(x, p["input_norm"])
    for number in range(CONFIG.num_layers):
        layer = p[f"layer_{number}"]
        y = norm(x, layer["attention_norm"])
        added = np.zeros_like(x)
        for head in range(CONFIG.num_heads):
            q, k, v = (
                y @ layer[name]["kernel"][:, head] + layer[name]["bias"][head]
                for name in ("query", "key", "value")
            )
            for place in range(len(items)):
                weights = softmax(q[place] @ k[: place + 1].T / math.sqrt(q.shape[1]))
                added[place] += weights @ v[: place + 1] @ layer["out"]["kernel"][head]
        x = x + added + layer["out"]["bias"]
        y = norm(x, layer["mlp_norm"])
        hidden = gelu(y @ layer["wi"]["kernel"] + layer["wi"]["bias"])
        x = x + hidden @ layer["wo"]["kernel"] + layer["wo"]["bias"]
    state = norm(x, p["output_norm"])[-1]
    return np.log(softmax(p["item_embedding"][1:] @ state))


def test_scores_equal_an_independent_forward_pass(params):
    scores_BN = SasRec(CONFIG, params, NUM_ITEMS).scores(HISTORIES)
    assert np.isneginf(scores_BN[:, 0]).all()
    for scores_N, history in zip(scores_BN, HISTORIES, strict=True):
        np.testing.assert_allclose(
            scores_N[1:], numpy_log_probabilities(params, history), rtol=1e-4, atol=1e-4
        )


def test_later_items_do_not_change_earlier_states(params):
    network = SasRecNetwork(CONFIG, NUM_ITEMS)
    items_BS = np.array([[3, 1, 4, 1, 5], [3, 1, 4, 2, 6], [3, 1, 4, 0, 0]])
    states_BSD = np.array(network.apply({"params": params}, items_BS))
    np.testing.assert_array_equal(states_BSD[:, :3], np.repeat(states_BSD[:1, :3], 3, axis=0))
    assert np.abs(states_BSD[0, 3:] - states_BSD[1, 3:]).min(axis=1).max() > 0
    assert np.abs(states_BSD[0, 4] - states_BSD[1, 4]).max() > 0.01


def test_batches_change_nothing(params, monkeypatch):
    together_BN = SasRec(CONFIG, params, NUM_ITEMS).scores(HISTORIES)
    for sizes in ((3,), (1, 2)):
        monkeypatch.setattr(sasrec, "_BATCH_SIZES", sizes)
        in_batches_BN = SasRec(CONFIG, params, NUM_ITEMS).scores(HISTORIES)
        np.testing.assert_allclose(in_batches_BN, together_BN, rtol=1e-5)


def test_the_loss_is_that_worked_by_hand():
    """Three items of width 1 and state 2: logits 0, 2 ln 2, 4 ln 2; a softmax of 1, 4, 16."""
    params = {"item_embedding": jnp.log(jnp.array([[9.0], [1.0], [2.0], [4.0]]))}
    losses_X = item_losses(params, jnp.full((4, 1), 2.0), jnp.array([1, 2, 3, 0]))
    expected = [math.log(21), math.log(21 / 4), math.log(21 / 16), 0]
    np.testing.assert_allclose(losses_X, expected, rtol=1e-5)


# --- Training ---


def chain(start, length):
    return [(start + step) % NUM_ITEMS + 1 for step in range(length)]


def save_sequences(folder, sequences):
    item_ids = ("", *(f"item {number}" for number in range(1, NUM_ITEMS + 1)))
    Sequences(
        user_ids=tuple(f"user {row}" for row in range(len(sequences))),
        item_ids=item_ids,
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.cumsum([0, *(len(items) for items in sequences)]).astype(np.int64),
        header={"dataset": "chains", "items_checksum": items_checksum(item_ids)},
    ).save(folder / SEQUENCES)
    return folder


def make_chains():
    """Users who walk along one cycle of all items, from anywhere."""
    generator = np.random.default_rng(0)
    return [chain(generator.integers(NUM_ITEMS), generator.integers(5, 9)) for _ in range(60)]


def settings(folder, **changes):
    standard = {
        "folder": str(folder),
        "run": "run",
        "network": SasRecConfig(8, 1, 2, 8, 0.1, 4),
        "learning_rate": 0.03,
        "weight_decay": 0.0,
        "num_epochs": 3,
        "batch_size": 20,
        "num_groups": 2,
        "seed": 0,
    }
    return {**standard, **changes}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of the chains, with a run of three epochs, and what training it said."""
    folder = save_sequences(tmp_path_factory.mktemp("chains"), make_chains())
    return folder, train_sasrec.train_sasrec(**settings(folder))


def metrics_of(folder):
    return (folder / "runs" / "run" / "metrics.jsonl").read_text()


def last_params(folder):
    checkpoint_folder = folder / "runs" / "run" / "checkpoints"
    like = sasrec.init(SasRecConfig(8, 1, 2, 8, 0.1, 4), NUM_ITEMS, jax.random.key(0))
    return checkpoints.load_params(
        checkpoint_folder, checkpoints.steps(checkpoint_folder)[-1], like
    )


def require_equal(one, other):
    for found, wanted in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_loss_of_a_step_is_the_mean_over_all_prefixes(tmp_path):
    """A batch of all users, without dropout, against the recommender's scores of every prefix."""
    save_sequences(tmp_path, make_chains()[:15])
    sequences = Sequences.load(tmp_path / SEQUENCES)
    inputs_US, targets_US, lengths_U = train_sasrec.training_rows(sequences, 5)
    groups = examples.length_groups(lengths_U, 15, 2)
    assert len(groups.sizes) == 2
    optimizer = optax.sgd(0.1)
    state = TrainState.create(sasrec.init(CONFIG, NUM_ITEMS, jax.random.key(2)), optimizer)
    recommender = SasRec(CONFIG, jax.tree.map(np.array, state.params), NUM_ITEMS)
    prefixes = [
        (items[:end], items[end])
        for items in sequences.training_sequences()
        for end in range(1, len(items))
    ]
    scores_BN = recommender.scores([history for history, _ in prefixes])
    expected = -np.mean([row[item] for row, (_, item) in zip(scores_BN, prefixes, strict=True)])
    epoch_fn = train_sasrec.make_epoch_fn(CONFIG, NUM_ITEMS, optimizer, groups)
    rows_nB = examples.epoch_plan(lengths_U, groups, 0, 0)
    _, losses = epoch_fn(state, (inputs_US, targets_US), rows_nB, jax.random.key(0))
    np.testing.assert_allclose(losses, [expected], rtol=1e-5)


def test_users_with_one_training_item_have_nothing_to_learn_from(tmp_path):
    save_sequences(tmp_path, [[1, 2, 3], [4, 5, 6, 7], [1, 2, 3, 4, 5, 6]])
    rows = train_sasrec.training_rows(Sequences.load(tmp_path / SEQUENCES), 2)
    inputs_US, targets_US, lengths_U = (array.tolist() for array in rows)
    assert (inputs_US, targets_US, lengths_U) == ([[4, 0], [2, 3]], [[5, 0], [3, 4]], [1, 2])
    save_sequences(tmp_path, [[1, 2, 3]])
    with pytest.raises(InputError, match="no user has more than one item to train on"):
        train_sasrec.training_rows(Sequences.load(tmp_path / SEQUENCES), 2)


def test_a_chain_is_learnt(tmp_path):
    folder = save_sequences(tmp_path, make_chains())
    result = train_sasrec.train_sasrec(**settings(folder, num_epochs=12, batch_size=10))
    assert result["ndcg@5"]["value"] == 1
    followers = SasRec.load(folder, "run").recommend(None, [chain(9, 3), chain(4, 2)], 1)
    assert followers.item_numbers.tolist() == [chain(9, 4)[-1:], chain(4, 3)[-1:]]


def test_a_run_that_was_cut_off_ends_in_the_same_bits(trained, tmp_path, monkeypatch):
    folder = save_sequences(tmp_path, make_chains())
    append = train_sasrec.RunLog.append

    def cut_off(self, row, *timing):
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        append(self, row, *timing)

    monkeypatch.setattr(train_sasrec.RunLog, "append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train_sasrec.train_sasrec(**settings(folder))
    monkeypatch.undo()
    result = train_sasrec.train_sasrec(**settings(folder))
    assert metrics_of(folder) == metrics_of(trained[0])
    require_equal(last_params(folder), last_params(trained[0]))
    assert result["recall@10"] == trained[1]["recall@10"]


def test_training_is_blind_to_what_validation_and_test_ask_for(trained, tmp_path):
    """Other items planted at the two last places of every user: the same parameters."""
    planted = [[*items[:-2], items[0], items[1]] for items in make_chains()]
    folder = save_sequences(tmp_path, planted)
    train_sasrec.train_sasrec(**settings(folder))
    require_equal(last_params(folder), last_params(trained[0]))
    assert metrics_of(folder) != metrics_of(trained[0])
    # What test asks for does not touch the metrics either, by which the best epoch is chosen.
    (tmp_path / "test").mkdir()
    folder = save_sequences(tmp_path / "test", [[*row[:-1], row[0]] for row in make_chains()])
    train_sasrec.train_sasrec(**settings(folder))
    assert metrics_of(folder) == metrics_of(trained[0])


def test_the_best_epoch_by_validation_is_kept_loaded_and_scored(trained):
    folder, result = trained
    rows = [json.loads(line) for line in metrics_of(folder).splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: row["ndcg@10"])
    recommender = SasRec.load(folder, "run")
    assert recommender.step == result["step"] == best["step"]
    run_folder = folder / "runs" / "run"
    _, lists = artifacts.load_arrays(run_folder / "eval/test/ranked_items.npz", "ranked_items", "")
    histories, targets = Sequences.load(folder / SEQUENCES).split("test")
    ranked = recommender.recommend(None, histories, 50, exclude_history=False)
    np.testing.assert_array_equal(lists["item_numbers"], ranked.item_numbers)
    hits = [target in row for target, row in zip(targets, ranked.item_numbers[:, :5], strict=True)]
    assert result["with_history_items"]["recall@5"]["value"] == pytest.approx(np.mean(hits))
    assert json.loads((run_folder / "eval/test/eval.json").read_text()) == result


def test_other_settings_are_refused(trained):
    with pytest.raises(InputError, match="begun with batch_size = 20, now it is 10"):
        train_sasrec.train_sasrec(**settings(trained[0], batch_size=10))


def test_a_run_of_other_items_or_of_another_model_is_refused(trained, tmp_path):
    folder, _ = trained
    sequences = Sequences.load(folder / SEQUENCES)
    grown = sequences.with_items(["item 13"], "")
    with pytest.raises(InputError, match="trained on other items"):
        SasRec.load(folder, "run", grown)
    path = tmp_path / "runs" / "tiger" / "run.json"
    artifacts.save_json(path, {"model": "tiger", "network": {}, "items_checksum": ""})
    with pytest.raises(InputError, match="not a run of SASRec"):
        SasRec.load(tmp_path, "tiger", sequences)


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(InputError, match="width=10: not a multiple of num_heads=4"):
        SasRecConfig(10, 1, 4, 8, 0.0, 4)
    for sizes, message in (
        ((8, 1, 4, 8, 0.0, 0), "max_history is 0; give 1 or more"),
        ((8, -1, 4, 8, 0.0, 4), "num_layers is -1; give 1 or more"),
        ((8, 1, 4, 0, 0.0, 4), "mlp_dim is 0; give 1 or more"),
        ((8, 1, 4, 8, 1.0, 4), "dropout_rate is 1.0; give 0 or more, less than 1"),
    ):
        with pytest.raises(InputError, match=message):
            SasRecConfig(*sizes)
