"""The verb make_ids: files, health, refusals, cards."""

import dataclasses
import functools
import json
import pathlib
import re
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import gin
from tiger_jax import artifacts, make_ids, prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.cooccurrence import encode_cooccurrence
from tiger_jax.data.sequences import Sequences
from tiger_jax.semantic_ids import journal, rqvae, schemes
from tiger_jax.semantic_ids.table import SemanticIdTable

# Macros of the cards, for a catalogue of 120 items.
SMALL = {"CODEBOOK_SIZES": "(8, 8, 8, 8)", "NUM_EPOCHS": 2}
CARDS = sorted((pathlib.Path(__file__).parent.parent / "gin" / "ids").glob("*.gin"))

RESIDUAL = functools.partial(schemes.residual, codebook_sizes=(8, 8))
functools.update_wrapper(RESIDUAL, schemes.residual)

# One object, so that all tests share what is compiled for it.
ADAMW = optax.adamw(1e-3)


def small_rqvae(embeddings_NE, seed, journal=None, **overrides):
    settings = {
        "hidden_sizes": (16,),
        "latent_size": 4,
        "codebook_sizes": (8, 16),
        "beta": 0.25,
        "optimizer": ADAMW,
        "batch_size": 32,
        "num_epochs": 20,
    }
    return schemes.rqvae(embeddings_NE, seed, journal=journal, **{**settings, **overrides})


@pytest.mark.parametrize("restart", [False, True])
def test_dead_codes_are_started_again_between_rounds(restart):
    """A codeword for each of the start items leaves them no residual: one second code for all."""
    embeddings_NE = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    rounds = {"start_items": 16, "num_epochs": 2, "epochs_per_round": 1, "restart": restart}
    sizes = {"codebook_sizes": (16, 16), "optimizer": optax.sgd(0.0)}
    codes = small_rqvae(embeddings_NE, 0, **sizes, **rounds).codes_NL
    assert (len(np.unique(codes[:, 1])) > 8) == restart


def test_gradients_are_clipped_to_their_norm():
    """Three steps of descent by one thousandth of a unit each, all parameters together."""
    embeddings_NE = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)
    rounds = {"num_epochs": 3, "epochs_per_round": 3, "restart": False}

    def parameters(rate):
        made = small_rqvae(
            embeddings_NE, 0, optimizer=optax.sgd(rate), max_gradient_norm=1e-3, **rounds
        )
        return np.concatenate([np.ravel(array) for array in made.quantizer.arrays.values()])

    moved = np.linalg.norm(parameters(1.0) - parameters(0.0))
    assert 1e-3 < moved <= 3e-3 * (1 + 1e-3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare.prepare("synthetic", str(folder), width=16, synthetic_users=300, synthetic_items=120)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A prepared folder of the test's own."""
    return pathlib.Path(shutil.copytree(prepared, tmp_path / "prepared"))


def replace_embeddings(folder, embeddings_NE):
    _, header = content.load_embeddings(folder)
    header.pop("checksum")
    content.save_embeddings(folder, embeddings_NE.astype(np.float32), header)


def files_of(folder):
    return sorted(path.name for path in (folder / "ids").rglob("*") if path.is_file())


def test_table_fits_the_items_and_says_what_it_was_made_from(folder):
    result = make_ids.make_ids(str(folder), "mine", RESIDUAL, seed=3)
    sequences = Sequences.load(folder / "sequences.npz")
    table = SemanticIdTable.load(
        folder / "ids" / "mine" / "semantic_ids.npz", sequences.header["items_checksum"]
    )
    assert table.num_items == sequences.num_items
    _, source = content.load_embeddings(folder)
    expected = {"scheme": "residual", "ids": "mine", "seed": 3, "dataset": "synthetic"}
    expected |= {"encoder": "tfidf", "embeddings_checksum": source["checksum"]}
    assert expected.items() <= table.header.items()
    assert {**result, **table.header} == result


def test_result_is_json_with_the_health_of_the_table(folder):
    result = make_ids.make_ids(str(folder), "mine", RESIDUAL)
    table = SemanticIdTable.load(folder / "ids" / "mine" / "semantic_ids.npz")
    assert table.health().items() <= json.loads(json.dumps(result)).items()


def test_equal_seeds_write_equal_tables(folder):
    for name in ("one", "two"):
        make_ids.make_ids(str(folder), name, small_rqvae, seed=5, min_codebook_usage=0)
    one, two = (
        SemanticIdTable.load(folder / "ids" / name / "semantic_ids.npz") for name in ("one", "two")
    )
    assert one.checksum() == two.checksum()
    assert one.header["parameters_checksum"] == two.header["parameters_checksum"]


def test_saved_parameters_give_every_item_its_codes_again(folder):
    make_ids.make_ids(str(folder), "mine", small_rqvae, min_codebook_usage=0)
    header, arrays = artifacts.load_arrays(
        folder / "ids" / "mine" / "quantizer.npz", "quantizer", ""
    )
    table = SemanticIdTable.load(folder / "ids" / "mine" / "semantic_ids.npz")
    assert header["parameters_checksum"] == table.header["parameters_checksum"]
    embeddings_NE, _ = content.load_embeddings(folder)
    x_NE = jnp.asarray((embeddings_NE - arrays.pop("mean")) / arrays.pop("std"))
    network = rqvae.RqVae(16, hidden_sizes=(16,), latent_size=4, codebook_sizes=(8, 16))
    output = network.apply({"params": traverse_util.unflatten_dict(arrays, sep="/")}, x_NE)
    np.testing.assert_array_equal(output.quantized.codes_BL, table.semantic_ids_NI[1:, :2])


def test_cooccurrence_of_training_sequences_stands_beside_content(folder):
    sequences = Sequences.load(folder / "sequences.npz")
    result = make_ids.make_ids(str(folder), "both", RESIDUAL, seed=3, cooccurrence_width=5)
    assert (result["cooccurrence_width"], result["encoder"]) == (5, "tfidf + cooccurrence")
    content_NE, _ = content.load_embeddings(folder)
    beside_NX = encode_cooccurrence(sequences.training_sequences(), sequences.num_items, 5, 3)
    beside_NX *= np.linalg.norm(content_NE - content_NE.mean(0)) / np.linalg.norm(
        beside_NX - beside_NX.mean(0)
    )
    expected = RESIDUAL(np.hstack([content_NE, beside_NX]), 3)
    table = SemanticIdTable.load(folder / "ids" / "both" / "semantic_ids.npz")
    np.testing.assert_array_equal(table.semantic_ids_NI[1:, :2], expected.codes_NL)
    # What is held out for evaluation may be anything.
    held_out = sequences.items.copy()
    for offset in (1, 2):
        held_out[sequences.offsets[1:] - offset] = 7
    dataclasses.replace(sequences, items=held_out).save(folder / "sequences.npz")
    make_ids.make_ids(str(folder), "again", RESIDUAL, seed=3, cooccurrence_width=5)
    again = SemanticIdTable.load(folder / "ids" / "again" / "semantic_ids.npz")
    np.testing.assert_array_equal(again.semantic_ids_NI, table.semantic_ids_NI)


@pytest.mark.parametrize("wrong", [{"cooccurrence_width": -1}, {"joined_with": "work/other"}])
def test_cooccurrence_has_a_width_and_one_folder(folder, wrong, monkeypatch):
    monkeypatch.setattr(make_ids, "_join", lambda embeddings_NE, *_: (embeddings_NE, []))
    with pytest.raises(InputError, match="give a width of at least 1, and no other folders"):
        make_ids.make_ids(str(folder), "mine", RESIDUAL, **{"cooccurrence_width": 5, **wrong})
    assert files_of(folder) == []


def test_health_is_saved_while_training_and_at_the_end(folder):
    result = make_ids.make_ids(str(folder), "mine", small_rqvae, min_codebook_usage=0)
    lines = (folder / "ids" / "mine" / "metrics.jsonl").read_text().splitlines()
    *rows, final = map(json.loads, lines)
    assert [row["epoch"] for row in rows] == [10, 20]
    for row in rows:
        assert len(row["codebook_usage"]) == 2
        assert len(row["residual_norms"]) == 3
        assert row["loss"] == pytest.approx(
            row["reconstruction_loss"] + row["quantization_loss"], rel=1e-5
        )
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["explained_variance"] > rows[0]["explained_variance"]
    for name in ("unique", "codebook_usage", "explained_variance"):
        assert final[name] == rows[-1][name] == result[name]


def test_collapsed_codebook_ends_the_run_and_writes_nothing(folder):
    def collapse(embeddings_NE, seed):
        codes = RESIDUAL(embeddings_NE, seed)
        return dataclasses.replace(codes, codes_NL=codes.codes_NL % [8, 3])

    with pytest.raises(InputError, match="codebook 1 has collapsed: 3 of its 8 codes"):
        make_ids.make_ids(str(folder), "mine", collapse)
    assert not (folder / "ids").exists()
    make_ids.make_ids(str(folder), "mine", collapse, min_codebook_usage=3 / 8)


def test_a_codebook_that_joined_folders_share_has_not_collapsed(folder, monkeypatch):
    """The first folder's items use a quarter of it, the other's the rest."""
    embeddings_NE, _ = content.load_embeddings(folder)
    both_NE = np.concatenate([embeddings_NE, embeddings_NE])
    monkeypatch.setattr(make_ids, "_join", lambda embeddings_NE, *_: (both_NE, []))

    def share(all_NE, seed):
        codes_NL = np.arange(2 * len(all_NE)).reshape(-1, 2) % 8
        codes_NL[: len(embeddings_NE)] %= 2
        return dataclasses.replace(RESIDUAL(embeddings_NE, seed), codes_NL=codes_NL)

    result = make_ids.make_ids(str(folder), "mine", share, min_codebook_usage=0.5)
    assert max(result["codebook_usage"]) <= 0.25


def test_literal_adagrad_collapses(folder):
    """The paper's optimizer as it stands: no clipping, no restarts."""
    with pytest.raises(InputError, match=r"codebook \d has collapsed|no longer finite"):
        make_ids.make_ids(
            str(folder),
            "mine",
            functools.update_wrapper(
                functools.partial(small_rqvae, optimizer=optax.adagrad(0.4), restart=False),
                small_rqvae,
            ),
        )
    assert not (folder / "ids").exists()


def test_diverging_loss_is_one_clear_line(folder):
    embeddings_NE, _ = content.load_embeddings(folder)
    with pytest.raises(InputError, match="no longer finite after epoch 10"):
        small_rqvae(embeddings_NE, 0, optimizer=optax.sgd(1e6))


def test_codebooks_start_on_the_given_number_of_items(folder):
    embeddings_NE, _ = content.load_embeddings(folder)
    small_rqvae(embeddings_NE, 0, num_epochs=1, start_items=16)
    with pytest.raises(InputError, match="15 items cannot fill a codebook of 16"):
        small_rqvae(embeddings_NE, 0, start_items=15)


def test_killed_run_leaves_the_old_ids_whole(folder, monkeypatch):
    make_ids.make_ids(str(folder), "mine", RESIDUAL, seed=0)
    before = (folder / "ids" / "mine" / "semantic_ids.npz").read_bytes()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_ids.make_ids(str(folder), "mine", killed)
    monkeypatch.setattr(artifacts, "save_arrays", killed)
    with pytest.raises(KeyboardInterrupt):
        make_ids.make_ids(str(folder), "mine", RESIDUAL, seed=1)
    assert (folder / "ids" / "mine" / "semantic_ids.npz").read_bytes() == before
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embedding_that_is_not_finite_names_the_item(folder, value):
    embeddings_NE, _ = content.load_embeddings(folder)
    embeddings_NE[[6, 9], 2] = value
    replace_embeddings(folder, embeddings_NE)
    with pytest.raises(
        InputError, match="2 of 120 embeddings are not finite, first that of item number 7"
    ):
        make_ids.make_ids(str(folder), "mine", RESIDUAL)


def test_constant_embeddings_are_one_clear_line(folder):
    replace_embeddings(folder, np.ones((120, 16)))
    with pytest.raises(InputError, match="all 120 items have the same embedding"):
        make_ids.make_ids(str(folder), "mine", RESIDUAL)


def test_fewer_items_than_codes_is_one_clear_line(folder):
    wide = functools.partial(schemes.residual, codebook_sizes=(256,))
    with pytest.raises(InputError, match="120 items cannot fill a codebook of 256"):
        make_ids.make_ids(str(folder), "mine", functools.update_wrapper(wide, schemes.residual))


def test_folder_that_is_not_prepared_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"python -m tiger_jax\.prepare"):
        make_ids.make_ids(str(tmp_path), "mine", RESIDUAL)


def with_includes(card):
    """The text of a card and of those it includes."""
    text = card.read_text()
    included = re.findall(r"^include 'gin/ids/(.*)'", text, re.MULTILINE)
    return text + "".join(with_includes(card.with_name(name)) for name in included)


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_every_card_makes_ids_from_the_command_line(card, folder, capsys):
    dataset = card.parent.parent / "dataset" / "synthetic.gin"
    argv = ["make_ids", f"--gin_file={dataset}", f"--gin_file={card}", f"--folder={folder}"]
    argv += ["--seed=1", "--json", "--min_codebook_usage=0"]
    text = with_includes(card)
    for macro, value in SMALL.items():
        if f"{macro} = " in text:
            argv += [f"--gin.{macro}={value}"]
    gin.clear_config()
    try:
        make_ids.main(argv)
    finally:
        gin.clear_config()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"codebook_usage", "unique", "collisions"} <= result.keys()
    assert result["seed"] == 1
    assert result["scheme"] in {scheme.__name__ for scheme in schemes.SCHEMES}
    assert card.stem.startswith(result["scheme"]) or card.stem == "figure4"
    assert (folder / "ids" / card.stem / "semantic_ids.npz").is_file()
    config = (folder / "ids" / card.stem / "config.gin").read_text()
    assert "make_ids.scheme" in config


def test_every_scheme_is_listed_and_has_a_card(capsys):
    make_ids.main(["make_ids", "--list"])
    names = capsys.readouterr().out.splitlines()
    assert names == ["rqvae", "vqvae", "lsh", "random", "hierarchical", "residual", "text"]
    assert set(names) <= {card.stem for card in CARDS}
    with pytest.raises(SystemExit) as end:
        make_ids.main(["make_ids", "--list", "--misspelt"])
    assert end.value.code == 2
    assert "Unknown command line flag 'misspelt'" in capsys.readouterr().err


def test_scheme_flag_stands_for_its_card(folder, capsys):
    dataset = "--gin_file=gin/dataset/synthetic.gin"
    for argv in (["--scheme=random"], ["--scheme", "random"]):
        make_ids.main(["make_ids", dataset, *argv, f"--folder={folder}", "--json"])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (result["scheme"], result["ids"]) == ("random", "random")
        gin.clear_config()
    with pytest.raises(SystemExit):
        make_ids.main(["make_ids", "--scheme=kmeans", f"--folder={folder}"])
    assert "no such gin file" in capsys.readouterr().err
    # What gin adds to the errors of a function that it calls is left out.
    with pytest.raises(SystemExit):
        make_ids.main(["make_ids", "--scheme=residual", f"--folder={folder}"])
    message = "error: 120 items cannot fill a codebook of 256 codes; lower codebook_sizes "
    message += "(--gin.CODEBOOK_SIZES)\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(("configuration", "rounds"), [("same", 1), ("another", 2)])
def test_killed_training_goes_on_to_the_same_table(folder, monkeypatch, configuration, rounds):
    """Killed in the second of two rounds; one of another configuration starts anew."""
    monkeypatch.setattr(journal, "_PERIOD", 0.0)
    train_epochs, calls = rqvae.train_epochs, []

    def run(name, configuration, killed_in=None):
        def counted(*args, **kwargs):
            calls.append(kwargs["num_epochs"])
            if len(calls) == killed_in:
                raise KeyboardInterrupt
            return train_epochs(*args, **kwargs)

        calls.clear()
        monkeypatch.setattr(rqvae, "train_epochs", counted)
        make_ids.make_ids(
            str(folder), name, small_rqvae, min_codebook_usage=0, configuration=configuration
        )

    run("undisturbed", "same")
    with pytest.raises(KeyboardInterrupt):
        run("mine", "same", killed_in=2)
    metrics = folder / "ids" / "mine.training" / "metrics.jsonl"
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [10]
    assert not (folder / "ids" / "mine").exists()
    run("mine", configuration)
    assert len(calls) == rounds
    assert not metrics.parent.exists()
    undisturbed, mine = (folder / "ids" / name for name in ("undisturbed", "mine"))
    assert (mine / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()
    one, two = (SemanticIdTable.load(path / "semantic_ids.npz") for path in (undisturbed, mine))
    assert one.checksum() == two.checksum()
    assert one.header["parameters_checksum"] == two.header["parameters_checksum"]


def test_a_full_disk_leaves_what_was_trained(folder, monkeypatch):
    """The state of the first of two rounds stays when that of the second cannot be written."""
    monkeypatch.setattr(journal, "_PERIOD", 0.0)
    save_arrays, saved = artifacts.save_arrays, []

    def full(path, *arguments, **arrays):
        saved.append(path)
        if len(saved) == 2:
            raise artifacts.CannotWriteError(f"{path}: cannot be written (No space left on device)")
        save_arrays(path, *arguments, **arrays)

    arguments = {"min_codebook_usage": 0, "configuration": "same"}
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "save_arrays", full)
        with pytest.raises(InputError, match="No space left"):
            make_ids.make_ids(str(folder), "mine", small_rqvae, **arguments)
    train_epochs, rounds = rqvae.train_epochs, []

    def counted(*args, **kwargs):
        rounds.append(kwargs["num_epochs"])
        return train_epochs(*args, **kwargs)

    monkeypatch.setattr(rqvae, "train_epochs", counted)
    make_ids.make_ids(str(folder), "mine", small_rqvae, **arguments)
    assert rounds == [10]


def test_joined_folders_share_codes_and_keep_their_own_items(folder, tmp_path):
    other = tmp_path / "other"
    prepare.prepare("synthetic", str(other), width=16, synthetic_users=200, synthetic_items=80)
    make_ids.make_ids(str(folder), "joined", RESIDUAL, joined_with=str(other))
    table = SemanticIdTable.load(folder / "ids" / "joined" / "semantic_ids.npz")
    own_NE, other_NE = (content.load_embeddings(path)[0] for path in (folder, other))
    codes = RESIDUAL(np.concatenate([own_NE, other_NE]), 0)
    np.testing.assert_array_equal(table.semantic_ids_NI[1:, :2], codes.codes_NL[: len(own_NE)])
    assert [source["dataset"] for source in table.header["joined_with"]] == ["synthetic"]
    prepare.prepare("synthetic", str(other), width=8, synthetic_users=200, synthetic_items=80)
    with pytest.raises(InputError, match="8 wide, but those to join by tfidf, 16 wide"):
        make_ids.make_ids(str(folder), "joined", RESIDUAL, joined_with=str(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ""}, "ids='': give a name, without /"),
        ({"ids": "../elsewhere"}, "ids='../elsewhere': give a name, without /"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"collision_size": 0}, "collision_size is 0; give 1 or more"),
        ({"min_codebook_usage": 2.0}, "min_codebook_usage is 2.0; give 0 to 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(folder, changes, message):
    arguments = {"ids": "mine", "scheme": RESIDUAL, **changes}
    with pytest.raises(InputError, match=f"^{message}"):
        make_ids.make_ids(str(folder), **arguments)
    assert files_of(folder) == []
