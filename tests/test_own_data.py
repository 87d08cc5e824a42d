"""Own data: tables of interactions and items -> RawData, whatever their ids and times are."""

import json
import pathlib

import numpy as np
import pytest

from tiger_jax import prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, own_data
from tiger_jax.data.own_data import Columns
from tiger_jax.data.sequences import Sequences, build_sequences

ITEMS = """item_id,title,price,category,colour
1,Razor &amp; Blade,12.50,Grooming > Shaving; Gifts,red
2,Foam,on request,,
3,Tent,,Outdoors,green
"""


def read(folder, interactions, items=None, name="orders.csv", fields=(), **columns):
    (folder / name).write_text(interactions, encoding="utf-8")
    items_path = None
    if items is not None:
        items_path = folder / "items.csv"
        items_path.write_text(items, encoding="utf-8")
    return own_data.read_raw(folder / name, items_path, Columns(**columns), fields)


def test_interactions_come_with_their_ids_and_times(tmp_path):
    raw = read(
        tmp_path,
        "when,sku,who,rating\n3,ö 1,Ünal,5\n1, ö 1 ,木,4\n2,7,Ünal,3\n",
        user="who", item="sku", time="when",
    )  # fmt: skip
    assert raw.name == tmp_path.name
    assert (raw.user_ids, raw.item_ids) == (["Ünal", "木"], ["ö 1", "7"])
    np.testing.assert_array_equal(raw.users, [0, 1, 0])
    np.testing.assert_array_equal(raw.items, [0, 0, 1])
    np.testing.assert_array_equal(raw.timestamps, [3, 1, 2])
    assert raw.timestamps.dtype == np.int64
    assert raw.metadata_of("7") == dict.fromkeys(own_data.METADATA_FIELDS)


def test_whole_numbers_are_ids_in_every_form(tmp_path):
    """A number in JSON, a number that a spreadsheet made fractional, a text: one item."""
    lines = [
        {"user_id": 1, "item_id": 7, "timestamp": 1},
        {"user_id": "1", "item_id": 7.0, "timestamp": 2},
        {"user_id": 1.0, "item_id": "7", "timestamp": 3},
    ]
    raw = read(tmp_path, "\n".join(map(json.dumps, lines)), name="orders.jsonl")
    assert (raw.user_ids, raw.item_ids) == (["1"], ["7"])


def test_metadata_is_what_the_columns_say(tmp_path):
    raw = read(
        tmp_path, "user_id,item_id,timestamp\nu,1,1\nu,2,2\nu,9,3\n", ITEMS, fields=("colour",)
    )
    assert raw.metadata == {
        "1": {
            "title": "Razor & Blade",
            "price": 12.5,
            "brand": None,
            "categories": [["Grooming", "Shaving"], ["Gifts"]],
            "keywords": None,
            "colour": "red",
        },
        "2": dict.fromkeys(raw.fields) | {"title": "Foam", "price": "on request"},
    }
    assert raw.fields == (*own_data.METADATA_FIELDS, "colour")
    assert raw.metadata_of("9") == dict.fromkeys(raw.fields)
    assert raw.catalogue == {"1": 0, "2": 1, "3": 2}


def test_columns_of_the_items_may_have_any_names(tmp_path):
    raw = read(
        tmp_path,
        "user_id,item_id,timestamp\nu,1,1\n",
        "sku;product name;dept\n1;Razor;Grooming\n",
        items_id="sku", title="product name", category="dept",
    )  # fmt: skip
    assert raw.metadata["1"]["title"] == "Razor"
    assert raw.metadata["1"]["categories"] == [["Grooming"]]


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("Shaving", [["Shaving"]]),
        (["Grooming", "Shaving"], [["Grooming", "Shaving"]]),
        ([["Grooming", "Shaving"], ["Gifts"]], [["Grooming", "Shaving"], ["Gifts"]]),
        ([], None),
        (" > ", None),
    ],
)
def test_categories_of_every_form_become_paths(tmp_path, value, paths):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": 1, "category": value}))
    (tmp_path / "o.csv").write_text("user_id,item_id,timestamp\nu,1,1\n")
    raw = own_data.read_raw(tmp_path / "o.csv", path, Columns())
    assert raw.metadata["1"]["categories"] == paths


def order(folder, times, **columns):
    """Order in time of the rows with these times."""
    rows = "".join(f'u,{n},"{time}"\n' for n, time in enumerate(times))
    raw = read(folder, "user_id,item_id,timestamp\n" + rows, **columns)
    return np.argsort(raw.timestamps, kind="stable").tolist()


@pytest.mark.parametrize(
    ("times", "time_format"),
    [
        (("-5", "3", "20", "1772366400123456789"), ""),
        (("1.5", "2", "2.25", "1772366400.0", "1.8e9"), ""),
        (("2026-03-01", "2026-03-01T00:00:01", "2026-03-01 00:00:01.5", "20260302T10"), ""),
        (("2026/03/01", "2026/03/01 07:00"), ""),
        (("2026-03-01T08:00:00+09:00", "2026-03-01T00:00:00Z", "2026-03-01 00:30:00 UTC"), ""),
        (("1969-12-31", "1970-01-01"), ""),
        (("28.02.2026", "01.03.2026"), "%d.%m.%Y"),
        (("Feb 28 2026 11:00 PM", "Mar 1 2026 01:00 AM"), "%b %d %Y %I:%M %p"),
        (("20260228", "20260301"), "%Y%m%d"),
    ],
)
def test_times_of_every_form_are_ordered(tmp_path, times, time_format):
    assert order(tmp_path, times, time_format=time_format) == list(range(len(times)))
    backwards = list(range(len(times)))[::-1]
    assert order(tmp_path, times[::-1], time_format=time_format) == backwards


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2026-03-01", "yesterday"], r"orders.csv:3: field 'timestamp', 'yesterday', is neither"),
        (["03/01/2026"], r"neither a number nor an ISO 8601 date; .*--time_format"),
        ([""], r"orders.csv:2: field 'timestamp', '', is neither"),
        (["nan"], "is neither"),
        (["9" * 30], "is neither"),
        (["1", "2026-03-01"], r":3: .* is a date without a time zone, the rows before .* a number"),
        (["2026-03-01", "2026-03-01T00:00Z"], r":3: .* is a date with a time zone, the rows bef"),
    ],
)
def test_times_that_cannot_be_told_are_named(tmp_path, times, message):
    with pytest.raises(InputError, match=message) as caught:
        order(tmp_path, times)
    assert "\n" not in str(caught.value)


def test_dates_of_another_form_than_the_given_one_are_named(tmp_path):
    with pytest.raises(InputError, match=r":2: .*, '2026-03-01', .* of the form %d\.%m\.%Y"):
        order(tmp_path, ["2026-03-01"], time_format="%d.%m.%Y")


def test_rows_in_time_order_need_no_times(tmp_path):
    raw = read(tmp_path, "user_id,item_id\nu,1\nu,2\nu,1\n", time="")
    assert raw.timestamps is None
    sequences = build_sequences(raw, min_interactions=1)
    np.testing.assert_array_equal(sequences.items, [1, 2, 1])


def test_repeated_rows_are_dropped_and_counted(tmp_path):
    rows = "u,1,5\nu,2,5\nu,1,5\nu,1,6\nv,1,5\nu,1,5\n"
    raw = read(tmp_path, "user_id,item_id,timestamp\n" + rows)
    np.testing.assert_array_equal(raw.users, [0, 0, 0, 1])
    np.testing.assert_array_equal(raw.items, [0, 1, 0, 0])
    np.testing.assert_array_equal(raw.timestamps, [5, 5, 6, 5])
    (gone,) = raw.dropped
    assert (gone.users, gone.items, gone.interactions) == (0, 0, 2)


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        ("u,1,1\nu,,2\n", None, "orders.csv:3: field 'item_id' must be a text that is not empty"),
        ("u,1,1\n" + "u" * 10_000 + ",1,2\n", None, "orders.csv:3: field 'user_id' is longer than"),
        ("u,1,1\n", "id,title\n1,x\n", r"items.csv: no column 'item_id'; it has id, title; .*--it"),
        ("u,1,1\n", ITEMS + "2,x,,,\n", r"items.csv:5: item '2' has a row already, number 2"),
        ("u,7,1\n", ITEMS, r"items.csv: has none of the items .* such as '7'; .* has '1'"),
    ],
)
def test_faulty_rows_are_named(tmp_path, interactions, items, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, "user_id,item_id,timestamp\n" + interactions, items)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("columns", [{"title": "nme"}, {"category": "kind"}, {"items_id": "sku"}])
def test_columns_that_were_asked_for_must_be_there(tmp_path, columns):
    with pytest.raises(InputError, match=r"items.csv: no column .* it has item_id, title, price"):
        read(tmp_path, "user_id,item_id,timestamp\nu,1,1\n", ITEMS, **columns)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"title": {"en": "x"}}, "field 'title' must be a text or a number"),
        ({"category": 3}, "field 'category' must be a text, a list of texts"),
        ({"item_id": True}, "field 'item_id' must be a text"),
        ({"item_id": 1.5}, "field 'item_id' must be a text"),
    ],
)
def test_values_of_wrong_types_are_named(tmp_path, value, message):
    (tmp_path / "o.csv").write_text("user_id,item_id,timestamp\nu,1,1\n")
    (tmp_path / "i.jsonl").write_text('{"item_id": "0"}\n' + json.dumps({"item_id": 1} | value))
    with pytest.raises(InputError, match=rf"i\.jsonl:2: {message}"):
        own_data.read_raw(tmp_path / "o.csv", tmp_path / "i.jsonl", Columns())


# --- The verb ---


def shop(folder, num_users=12, num_items=6):
    """Users who buy items in turn; a table of items in another order."""
    folder.mkdir(exist_ok=True)
    rows = [
        f"u{user},i{(user + step) % num_items},2026-03-{step + 1:02}"
        for user in range(num_users)
        for step in range(5)
    ]
    (folder / "orders.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    items = [f"i{n},{names[n]} thing" for n in reversed(range(num_items))]
    (folder / "items.csv").write_text("item_id,title\n" + "\n".join(items) + "\n")
    return str(folder / "orders.csv"), str(folder / "items.csv")


def test_thresholds_of_users_and_items_drop_with_reasons(tmp_path):
    source = tmp_path / "orders.csv"
    rows = "u,1,1\nu,1,1\nu,2,2\nu,3,3\nv,1,1\nv,2,2\nw,1,1\nw,2,2\nw,1,3\nw,2,4\nw,4,5\n"
    source.write_text("user_id,item_id,timestamp\n" + rows)
    result = prepare.prepare(
        str(source), str(tmp_path / "p"), encoder="cooccurrence",
        min_interactions=1, min_item_interactions=2,
    )  # fmt: skip
    # v has too few for leave-one-out; items 3 and 4 are bought once; that leaves u too few.
    assert result["users"] == 1
    assert result["dropped"] == {"users": 2, "items": 2, "interactions": 7}
    assert [
        (gone["users"], gone["items"], gone["interactions"]) for gone in result["dropped_by_reason"]
    ] == [(0, 0, 1), (2, 0, 4), (0, 2, 2)]
    assert "(leave-one-out takes that many)" in result["dropped_by_reason"][1]["reason"]
    header = Sequences.load(tmp_path / "p" / "sequences.npz").header
    assert header["dropped"] == result["dropped_by_reason"]


def test_ready_made_embeddings_are_in_the_order_of_the_items(tmp_path):
    source, items = shop(tmp_path / "shop")
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    np.save(tmp_path / "vectors.npy", vectors)
    encoder = str(tmp_path / "vectors.npy")
    prepare.prepare(source, str(tmp_path / "p"), items, encoder=encoder)
    embeddings, header = content.load_embeddings(tmp_path / "p")
    assert header["encoder"] == encoder
    ids = Sequences.load(tmp_path / "p" / "sequences.npz").item_ids[1:]
    # The table of items counts down from i5.
    expected = [vectors[5 - int(item_id[1:])] for item_id in ids]
    np.testing.assert_allclose(embeddings, expected, rtol=1e-6)
    np.save(tmp_path / "vectors.npy", -vectors)
    prepare.prepare(source, str(tmp_path / "p"), items, encoder=encoder)
    np.testing.assert_allclose(content.load_embeddings(tmp_path / "p")[0], -np.array(expected))


def test_items_without_a_row_are_dropped_where_embeddings_are_ready_made(tmp_path):
    source, items = shop(tmp_path / "shop")
    path = pathlib.Path(items)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(5, 3)))
    result = prepare.prepare(
        source, str(tmp_path / "p"), items, min_interactions=3, encoder=str(tmp_path / "v.npy")
    )
    assert result["items"] == 5
    assert result["dropped_by_reason"][0] == {
        "reason": "items without a row in the table of items",
        "users": 0,
        "items": 1,
        "interactions": 10,
    }
    # A text encoder keeps them, with nothing known of them.
    result = prepare.prepare(source, str(tmp_path / "p"), items, min_interactions=3)
    assert (result["items"], result["items_without_metadata"]) == (6, 1)


def test_items_that_nobody_took_are_counted(tmp_path):
    source, items = shop(tmp_path / "shop")
    kept = prepare.prepare(source, str(tmp_path / "p"), items, min_interactions=3)
    assert kept["dropped"]["items"] == 0
    header, *rows = pathlib.Path(items).read_text().splitlines()
    new = [row.replace(row.split(",")[0], f"new{i}", 1) for i, row in enumerate(rows[:2])]
    pathlib.Path(items).write_text("\n".join([header, new[0], *rows, new[1]]))
    result = prepare.prepare(source, str(tmp_path / "p"), items, min_interactions=3)
    assert result["dropped"]["items"] == 2
    assert result["dropped_by_reason"][0] == {
        "reason": "items of the table that are in no interaction (make_ids --add gives them IDs)",
        "users": 0,
        "items": 2,
        "interactions": 0,
    }
    assert result["items"] == kept["items"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((5, 3)), "v.npy: has 5 rows, the file of items 6"),
        (np.ones((6, 3)), "v.npy: all 6 items have the same embedding"),
        (np.full((6, 3), np.nan), "v.npy: 6 of 6 embeddings are not finite"),
        (np.ones(6), r"v.npy: must be of floats and have two axes"),
        (np.ones((6, 3), int), r"must be of floats .* found int64 \[6, 3\]"),
        (np.ones((6, 0)), r"must be of floats .* found float64 \[6, 0\]"),
        (None, "v.npy: no such file; make it with numpy.save"),
    ],
)
def test_unusable_ready_made_embeddings_are_named(tmp_path, vectors, message):
    source, items = shop(tmp_path / "shop")
    if vectors is not None:
        np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(InputError, match=message):
        prepare.prepare(source, str(tmp_path / "p"), items, encoder=str(tmp_path / "v.npy"))
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": ""}, "no item has any of the text fields .* an encoder that needs no text"),
        ({"items": "", "encoder": "v.npy"}, "give that by --items"),
        ({"source": "synthetic"}, "goes with a table of interactions, but source=synthetic"),
        ({"text_fields": "colour"}, r"no column 'colour'; it has item_id, title; .*--text_fields"),
        ({"min_interactions": 6}, "no user of shop has 6 interactions with items .* down to"),
        ({"template": "{colour}"}, "must hold one of"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, changes, message):
    source, items = shop(tmp_path / "shop")
    arguments = {"source": source, "folder": str(tmp_path / "p"), "items": items}
    with pytest.raises(InputError, match=message) as caught:
        prepare.prepare(**arguments | {"min_interactions": 3} | changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_columns_of_ones_own_are_in_the_sentence(tmp_path, monkeypatch):
    source, items = shop(tmp_path / "shop")
    texts = []
    monkeypatch.setattr(
        content, "encode", lambda found, *_: texts.extend(found) or np.eye(len(found), dtype="f4")
    )
    path = pathlib.Path(items)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0] + ",net weight", *(f"{row},9 g" for row in rows[1:])]))
    prepare.prepare(
        source, str(tmp_path / "p"), items, min_interactions=3, text_fields="net weight, title"
    )
    assert texts[0] == "Title: alpha thing. Net weight: 9 g."


def test_users_with_very_many_interactions_have_a_report(tmp_path):
    """All in the last column of its histogram."""
    source = tmp_path / "orders.csv"
    rows = [f"{user},{(user + place) % 20},{place}" for user in range(2) for place in range(60)]
    source.write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    prepare.prepare(str(source), str(tmp_path / "p"), encoder="cooccurrence", width=4)
    assert "sequences have 60 to 60 items" in (tmp_path / "p" / "report.html").read_text()


def test_an_item_is_called_what_the_interactions_call_it(tmp_path):
    """Whatever another column of the same name holds, and for items without a row."""
    source, items = shop(tmp_path / "shop")
    path = pathlib.Path(items)
    header, *rows = path.read_text().splitlines()
    rows = [f"{row},other" for row in rows[1:]]
    path.write_text("\n".join([header.replace("item_id", "sku") + ",item_id", *rows]))
    prepare.prepare(
        source, str(tmp_path / "p"), items, items_id_column="sku", min_interactions=3,
        text_fields="title,item_id",
    )  # fmt: skip
    sequences = Sequences.load(tmp_path / "p" / "sequences.npz")
    found = [row["item_id"] for row in content.load_items(tmp_path / "p")]
    assert found == list(sequences.item_ids[1:])


def test_a_column_that_only_late_rows_have_is_read(tmp_path):
    rows = [{"item_id": number} for number in range(5000)] + [{"item_id": "last", "brand": "Acme"}]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "o.csv").write_text("user_id,item_id,timestamp\nu,last,1\n")
    raw = own_data.read_raw(tmp_path / "o.csv", tmp_path / "i.jsonl", Columns())
    assert raw.metadata["last"]["brand"] == "Acme"
