"""New items get IDs from a frozen scheme; what was there stays as it was."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.test_artifacts import owned_elsewhere
from tiger_jax import make_ids, prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences
from tiger_jax.new_items import add_items
from tiger_jax.semantic_ids import schemes
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import SemanticIdTable

HEADER = {"scheme": "hand", "items_checksum": "0123456789abcdef"}
SCHEMES = {
    "residual": functools.partial(schemes.residual, codebook_sizes=(8, 8)),
    "hierarchical": functools.partial(schemes.hierarchical, codebook_sizes=(8, 8)),
    "lsh": functools.partial(schemes.lsh, num_hyperplanes=3, num_levels=3),
    "random": functools.partial(schemes.random, codebook_sizes=(16, 16)),
}


def named(name):
    return functools.update_wrapper(SCHEMES[name], SCHEMES[name].func)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared folder with IDs of every scheme."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare.prepare("synthetic", str(folder), width=16, synthetic_users=300, synthetic_items=120)
    for name in SCHEMES:
        make_ids.make_ids(str(folder), name, named(name), min_codebook_usage=0)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    return pathlib.Path(shutil.copytree(prepared, tmp_path / "prepared"))


@pytest.fixture
def fresh(folder, tmp_path):
    """Two items as items 5 and 9 are, under other names, and one with words of its own."""
    rows = content.load_items(folder)
    rows = [rows[4] | {"item_id": "fresh_1"}, rows[8] | {"item_id": "fresh_2"}]
    rows.append({"item_id": "fresh_3", "title": "A kettle of copper", "price": 12})
    return write(tmp_path / "fresh.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table_of(folder, name="residual", version=""):
    return SemanticIdTable.load(folder / "ids" / name / f"semantic_ids{version}.npz")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["residual", "hierarchical", "lsh"])
def test_old_ids_stay_and_equal_items_get_equal_codes_and_the_next_token(folder, fresh, name):
    before = table_of(folder, name)
    result = add_items(str(folder), name, fresh)
    after = table_of(folder, name, "")
    assert (result["added"], after.num_items) == (3, before.num_items + 3)
    ids_NI = after.semantic_ids_NI
    np.testing.assert_array_equal(ids_NI[: before.num_items + 1], before.semantic_ids_NI)
    levels = after.num_levels
    for old, new in ((5, before.num_items + 1), (9, before.num_items + 2)):
        np.testing.assert_array_equal(ids_NI[new, :levels], ids_NI[old, :levels])
        equal = (ids_NI[1:new, :levels] == ids_NI[new, :levels]).all(axis=1)
        assert ids_NI[new, levels] == equal.sum()
    assert (after.header["version"], after.header["extends"]) == (2, [before.checksum()])
    assert after.continues(before.checksum())
    assert not before.continues(after.checksum())
    assert table_of(folder, name, ".v1").checksum() == before.checksum()


def test_folder_grows_with_the_table(folder, fresh):
    old = Sequences.load(folder / "sequences.npz")
    embeddings_NE, _ = content.load_embeddings(folder)
    add_items(str(folder), "residual", fresh)
    sequences = Sequences.load(folder / "sequences.npz")
    assert sequences.item_ids == (*old.item_ids, "fresh_1", "fresh_2", "fresh_3")
    np.testing.assert_array_equal(sequences.items, old.items)
    grown_NE, header = content.load_embeddings(folder)
    np.testing.assert_array_equal(grown_NE[:-3], embeddings_NE)
    # The encoder is the old one: equal texts, equal embeddings.
    np.testing.assert_allclose(grown_NE[-3:-1], embeddings_NE[[4, 8]], atol=1e-5)
    assert header["fitted_items"] == old.num_items
    rows = content.load_items(folder)
    assert rows[-1] == {
        "item_id": "fresh_3", "title": "A kettle of copper", "price": 12.0, "brand": None,
        "categories": None, "keywords": None,
    }  # fmt: skip
    assert table_of(folder).header["items_checksum"] == sequences.header["items_checksum"]
    frozen = Quantizer.load(folder / "ids" / "residual" / "quantizer.npz")
    np.testing.assert_array_equal(frozen.codes(grown_NE), table_of(folder).semantic_ids_NI[1:, :2])


def test_new_items_of_a_table_that_knows_cooccurrence_have_none(folder, fresh):
    make_ids.make_ids(str(folder), "both", named("residual"), cooccurrence_width=6)
    add_items(str(folder), "both", fresh)
    frozen = Quantizer.load(folder / "ids" / "both" / "quantizer.npz")
    new_ME = content.load_embeddings(folder)[0][-3:]
    expected = frozen.codes(np.hstack([new_ME, np.zeros((3, 6), np.float32)]))
    np.testing.assert_array_equal(table_of(folder, "both").semantic_ids_NI[-3:, :2], expected)


def test_another_table_of_the_folder_takes_the_same_items_later(folder, fresh, tmp_path):
    add_items(str(folder), "residual", fresh)
    with pytest.raises(InputError, match="made for other items than sequences"):
        SemanticIdTable.load(
            folder / "ids" / "lsh" / "semantic_ids.npz",
            Sequences.load(folder / "sequences.npz").header["items_checksum"],
        )
    assert add_items(str(folder), "lsh", fresh)["added"] == 3
    more = write(tmp_path / "more.jsonl", [{"item_id": "fresh_4", "title": "A pan"}])
    assert add_items(str(folder), "lsh", more)["version"] == 3
    lsh, residual = table_of(folder, "lsh"), table_of(folder)
    assert (lsh.num_items, residual.num_items) == (lsh.num_items, lsh.num_items - 1)
    assert len(lsh.header["extends"]) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"item_id": "x"}, {"item_id": "x"}],
            r"fresh\.jsonl:2: item x is in .*fresh\.jsonl:1, too; keep one",
        ),
        (
            [{"item_id": "x", "titel": "Pan"}],
            r"fresh\.jsonl: has 'titel'; name .*: item_id, title,",
        ),
        ([{"title": "Pan"}], r"fresh\.jsonl: lacks 'item_id'; name the columns"),
        ([{"item_id": "x"}, {"title": "Pan"}], r"fresh\.jsonl:2: field 'item_id' must be a text"),
        ([{"item_id": "x", "price": "dear"}], r"fresh\.jsonl:1: field 'price' must be a number"),
        ([], r"fresh\.jsonl: lacks 'item_id'"),
    ],
)
def test_faults_in_the_file_are_one_line_and_change_nothing(folder, tmp_path, rows, message):
    before = contents(folder)
    with pytest.raises(InputError, match=message):
        add_items(str(folder), "residual", write(tmp_path / "fresh.jsonl", rows))
    assert contents(folder) == before


def test_csv_and_json_lines_of_equal_items_give_equal_folders(folder, fresh, tmp_path):
    """The numbers and lists of JSON are texts in CSV; a number is an id in either."""
    rows = [
        {"item_id": 7, "title": "Pan, small", "price": 12.5, "categories": [["Kitchen", "Pans"]]},
        {"item_id": 8, "title": "Pot", "price": 7, "categories": None},
        {"item_id": 9, "title": None, "price": None, "categories": None},
    ]
    (tmp_path / "new.csv").write_text(
        'title,item_id,categories,price\n"Pan, small",7,Kitchen > Pans,12.5\nPot,8,,7\n,9,,\n'
    )
    other = shutil.copytree(folder, tmp_path / "other")
    result = add_items(str(folder), "residual", write(tmp_path / "new.jsonl", rows))
    assert (result["added"], result["without_text"]) == (3, 1)
    assert result == add_items(str(other), "residual", str(tmp_path / "new.csv"))
    assert contents(folder).keys() == {folder / path.relative_to(other) for path in contents(other)}
    for path, data in contents(other).items():
        assert (folder / path.relative_to(other)).read_bytes() == data, path
    assert content.load_items(folder)[-3:] == [
        {"item_id": "7", "title": "Pan, small", "price": 12.5, "brand": None}
        | {"categories": [["Kitchen", "Pans"]], "keywords": None},
        dict.fromkeys(content.load_items(folder)[0]) | {"item_id": "8", "title": "Pot", "price": 7},
        dict.fromkeys(content.load_items(folder)[0]) | {"item_id": "9"},
    ]


def test_known_item_scheme_blind_to_content_and_foreign_embeddings_change_nothing(
    folder, fresh, tmp_path
):
    before = contents(folder)
    known = write(tmp_path / "known.jsonl", content.load_items(folder)[6:7])
    with pytest.raises(InputError, match=r"known\.jsonl:1: item \w+ has an ID already"):
        add_items(str(folder), "residual", known)
    with pytest.raises(InputError, match="scheme random has no codes for new items"):
        add_items(str(folder), "random", fresh)
    np.save(tmp_path / "wide.npy", np.zeros((3, 17), np.float32))
    with pytest.raises(InputError, match="17 wide, but those that the codes were made from 16"):
        add_items(str(folder), "residual", fresh, embeddings=str(tmp_path / "wide.npy"))
    assert contents(folder) == before


def test_table_of_another_embedding_model_is_refused(folder, fresh):
    """The width is the same, the space is not."""
    embeddings_NE, header = content.load_embeddings(folder)
    header.pop("checksum")
    content.save_embeddings(folder, embeddings_NE[:, ::-1].copy(), header)
    before = contents(folder)
    with pytest.raises(InputError, match=r"made from other embeddings \(tfidf\)"):
        add_items(str(folder), "residual", fresh)
    assert contents(folder) == before


def test_an_encoder_that_is_another_by_now_is_refused(folder, fresh, monkeypatch):
    """As after another release of a library: the same width, other axes."""
    fit_tfidf = content.fit_tfidf

    def other(texts, width, seed):
        return fit_tfidf(texts, width, seed + 1)

    monkeypatch.setattr(content, "fit_tfidf", other)
    before = contents(folder)
    with pytest.raises(InputError, match="tfidf embeds the items of the folder otherwise than"):
        add_items(str(folder), "residual", fresh)
    assert contents(folder) == before


def test_own_embeddings_are_taken_row_by_row(folder, fresh, tmp_path):
    embeddings_NE, _ = content.load_embeddings(folder)
    np.save(tmp_path / "own.npy", embeddings_NE[[30, 20, 10]])
    add_items(str(folder), "residual", fresh, embeddings=str(tmp_path / "own.npy"))
    ids_NI = table_of(folder).semantic_ids_NI
    np.testing.assert_array_equal(ids_NI[-3:, :2], ids_NI[[31, 21, 11], :2])


def own_catalogue(tmp_path, encoder):
    """A folder of one's own tables, with a column of one's own, and IDs."""
    users = [[f"{(user + place) % 12}" for place in range(5)] for user in range(12)]
    rows = [f"u{u},i{i},{place}" for u, items in enumerate(users) for place, i in enumerate(items)]
    (tmp_path / "i.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    items = [f"i{item},{'blue' if item % 2 else 'red'} thing,{item % 3}.5" for item in range(12)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,size", *items]))

    def prepared():
        return prepare.prepare(
            str(tmp_path / "i.csv"),
            str(tmp_path / "own"),
            items=str(tmp_path / "items.csv"),
            encoder=encoder,
            text_fields="title,size",
            template="{title}.|{size} cm.",
            width=4,
            min_interactions=1,
        )

    prepared()
    make_ids.make_ids(str(tmp_path / "own"), "lsh", named("lsh"), min_codebook_usage=0)
    return prepared


def test_prepared_again_a_folder_of_own_embeddings_has_the_items_of_its_data(tmp_path, capsys):
    """The file of embeddings is the same as before; what has joined since is not in it."""
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32))
    embeddings_NE = np.load(tmp_path / "e.npy")
    np.save(tmp_path / "e.npy", embeddings_NE[:12])
    np.save(tmp_path / "one.npy", embeddings_NE[12:])
    prepared = own_catalogue(tmp_path, str(tmp_path / "e.npy"))
    new = write(tmp_path / "new.jsonl", [{"item_id": "new"}])
    add_items(str(tmp_path / "own"), "lsh", new, embeddings=str(tmp_path / "one.npy"))
    np.testing.assert_array_equal(content.load_embeddings(tmp_path / "own")[0], embeddings_NE)
    assert prepared()["orphaned_ids"] == ["lsh"]
    np.testing.assert_array_equal(content.load_embeddings(tmp_path / "own")[0], embeddings_NE[:12])
    assert "make its IDs again (lsh), and train under other names" in capsys.readouterr().out
    make_ids.make_ids(str(tmp_path / "own"), "lsh", named("lsh"), min_codebook_usage=0)
    assert prepared()["orphaned_ids"] == []


@pytest.mark.parametrize("size", ["2.5", 2.5, " 2.5 "])
def test_a_column_of_ones_own_reads_as_in_the_table(tmp_path, size):
    """A new item like item 2 has its embedding, however its size is written."""
    own_catalogue(tmp_path, "tfidf")
    new = write(tmp_path / "new.jsonl", [{"item_id": "new", "title": "red thing", "size": size}])
    add_items(str(tmp_path / "own"), "lsh", new)
    assert content.load_items(tmp_path / "own")[-1]["size"] == "2.5"
    embeddings_NE, _ = content.load_embeddings(tmp_path / "own")
    np.testing.assert_allclose(embeddings_NE[-1], embeddings_NE[2], atol=1e-6)


def test_fields_of_own_data_read_as_in_the_table(tmp_path):
    own_catalogue(tmp_path, "tfidf")
    row = {"item_id": "new", "title": 7, "price": "$12.99", "categories": "a > b", "size": 2}
    add_items(str(tmp_path / "own"), "lsh", write(tmp_path / "new.jsonl", [row]))
    found = content.load_items(tmp_path / "own")[-1]
    expected = {"title": "7", "price": "$12.99", "categories": [["a", "b"]], "size": "2"}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("size", [[1, 2], {"a": 1}])
def test_a_column_of_ones_own_must_be_a_text_or_a_number(tmp_path, size):
    own_catalogue(tmp_path, "tfidf")
    new = write(tmp_path / "new.jsonl", [{"item_id": "new", "size": size}])
    with pytest.raises(InputError, match=r"new.jsonl:1: field 'size' must be a text or a number"):
        add_items(str(tmp_path / "own"), "lsh", new)


def test_more_items_in_a_prefix_than_tokens_name_the_prefix_and_change_nothing(folder, tmp_path):
    row = content.load_items(folder)[4]
    rows = [row | {"item_id": f"fresh_{number}"} for number in range(256)]
    before = contents(folder)
    codes = tuple(table_of(folder).semantic_ids_NI[5, :2].tolist())
    with pytest.raises(InputError, match=r"items share the codes \({}, {}\)".format(*codes)):
        add_items(str(folder), "residual", write(tmp_path / "many.jsonl", rows))
    assert contents(folder) == before


def test_table_without_collision_token_refuses_equal_codes():
    table = SemanticIdTable.from_distinct_codes([[0, 1], [1, 0]], (2, 2), HEADER)
    assert table.with_new_items(np.array([[1, 1]]), {}).item_numbers([1, 1]) == 3
    with pytest.raises(InputError, match=r"items number 2 and 3 have the same ID \(1, 0\)"):
        table.with_new_items(np.array([[1, 0]]), {})


@pytest.mark.parametrize("moved", [0, 3, 6, 7])
def test_killed_while_files_change_places_is_finished_by_the_next_call(
    folder, fresh, tmp_path, monkeypatch, moved
):
    """Killed behind any number of the moves; the next call finds all done and says so."""
    reference = shutil.copytree(folder, tmp_path / "reference")
    add_items(str(reference), "residual", fresh)
    replace, calls = pathlib.Path.replace, []

    def killed(self, target):
        if ".new.complete" in str(self):
            calls.append(self)
            if len(calls) > moved:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", killed)
    if moved < 7:
        with pytest.raises(KeyboardInterrupt):
            add_items(str(folder), "residual", fresh)
    else:
        add_items(str(folder), "residual", fresh)
    monkeypatch.undo()
    if moved < 7:
        # Nobody reads a folder of two versions.
        with pytest.raises(InputError, match="cut off at its very end; give that one again"):
            Sequences.load(folder / "sequences.npz")
    with pytest.raises(InputError, match="has an ID already"):
        add_items(str(folder), "residual", fresh)
    names = {path.relative_to(folder): data for path, data in contents(folder).items()}
    expected = {path.relative_to(reference): data for path, data in contents(reference).items()}
    assert names == expected


@pytest.mark.parametrize("is_add", [True, False])
def test_two_cannot_change_a_folder_at_once(folder, fresh, is_add):
    """Or what the first adds while the second reads and encodes would be lost."""
    before = contents(folder)
    if is_add:
        change = functools.partial(add_items, str(folder), "residual", fresh)
    else:
        change = functools.partial(prepare.prepare, "synthetic", str(folder), synthetic_items=120)
    is_refused = pytest.raises(
        InputError, match="another process is at work on it; wait for its end"
    )
    with owned_elsewhere(folder / "ids"), is_refused:
        change()
    assert contents(folder) == before
