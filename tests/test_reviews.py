"""Readers of raw files: true formats, cleaning, and what they refuse."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.data import reviews
from tiger_jax.data.sequences import build_sequences


def write_gzip(path, *lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def review(user, item, time):
    """A line as in the original files, the fields that nobody needs included."""
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "reviewerName": "A. Reader",
            "helpful": [3, 4],
            "reviewText": "Fine.\nReally.",
            "overall": 5.0,
            "summary": "Fine",
            "unixReviewTime": time,
            "reviewTime": "01 30, 2014",
        }
    )


def mcauley(folder, review_lines, meta_lines):
    write_gzip(folder / "reviews_Beauty_5.json.gz", *review_lines)
    write_gzip(folder / "meta_Beauty.json.gz", *meta_lines)
    return reviews.read_raw(folder)


def test_mcauley_files_are_read_as_written(tmp_path):
    raw = mcauley(
        tmp_path,
        [review("u2", "b", 20), review("u1", "a", 10), review("u2", "a", 5)],
        [
            "{'asin': 'a', 'title': 'Oil &amp; \\t Balm\\n2', 'price': 3.5, 'brand': 'None', "
            "'categories': [['Beauty', 'Hair &amp; Skin']], 'related': {'also_bought': ['c']}}",
            "{'asin': 'b', 'imUrl': 'http://x/y.jpg', 'price': 4}",
            "{'asin': 'never reviewed', 'title': 'x'}",
        ],
    )
    assert raw.name == "Beauty"
    assert raw.user_ids == ["u2", "u1"]
    assert raw.item_ids == ["b", "a"]
    np.testing.assert_array_equal(raw.users, [0, 1, 0])
    np.testing.assert_array_equal(raw.items, [0, 1, 1])
    np.testing.assert_array_equal(raw.timestamps, [20, 10, 5])
    assert raw.metadata == {
        "a": {
            "title": "Oil & Balm 2",
            "price": 3.5,
            "brand": None,
            "categories": [["Beauty", "Hair & Skin"]],
            "keywords": None,
        },
        "b": dict.fromkeys(reviews.METADATA_FIELDS) | {"price": 4.0},
    }
    assert raw.metadata_of("unknown") == dict.fromkeys(reviews.METADATA_FIELDS)


@pytest.mark.parametrize("brand", ["Unknown", "None", "MISSING", "", "  "])
def test_placeholder_brands_are_no_brands(tmp_path, brand):
    raw = mcauley(tmp_path, [review("u", "a", 1)], [repr({"asin": "a", "brand": brand})])
    assert raw.metadata["a"]["brand"] is None


@pytest.mark.parametrize(
    "code",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "{{'asin': 'a', 'title': open({path!r}, 'w').write('x')}}",
        "{{'asin': 'a', **__import__('os').environ}}",
        "[open({path!r}, 'w') for _ in '1']",
        "f'{{open({path!r}, chr(119))}}'",
    ],
)
def test_code_in_metadata_is_refused_and_never_run(tmp_path, code):
    trace = tmp_path / "trace"
    line = code.format(path=str(trace))
    with pytest.raises(InputError, match=r"meta_Beauty\.json\.gz:2: not a Python literal"):
        mcauley(tmp_path, [review("u", "a", 1)], ["{'asin': 'z'}", line])
    assert not trace.exists()


@pytest.mark.parametrize(
    "line",
    [
        "-" * 10**6 + "1",
        "(" * 10**6,
        "[" * 5000 + "]" * 5000,
        "1+" * 10**5 + "1",
        "not " * 10**5 + "1",
        "{'a':" * 10**5,
        "9" * 10**5,
        "{[]: 1}",
        "{'asin': 'a'",
        "{'asin': 'a\0'}",
        "['asin', 'a']",
        "{'asin': 1}",
        "{'asin': ''}",
        "{'title': 'no asin'}",
        "{'asin': 'a', 'title': ['x']}",
        "{'asin': 'a', 'price': -1}",
        "{'asin': 'a', 'price': 1e999}",
        "{'asin': 'a', 'price': '3.50'}",
        "{'asin': 'a', 'categories': 'Beauty'}",
        "{'asin': 'a', 'categories': [['Beauty', 3]]}",
        "{'asin': '\\ud800'}",
        "{'asin': '" + "a" * 2**20 + "'}",
    ],
)
def test_hostile_metadata_is_one_line_that_names_file_and_line(tmp_path, line):
    with pytest.raises(InputError, match=r"meta_Beauty\.json\.gz:1: ") as caught:
        mcauley(tmp_path, [review("u", "a", 1)], [line])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        "{'reviewerID': 'u', 'asin': 'a', 'unixReviewTime': 1}",
        '{"reviewerID": "u", "asin": "a"}',
        '{"reviewerID": "u", "asin": "a", "unixReviewTime": "1"}',
        '{"reviewerID": "u", "asin": "a", "unixReviewTime": 1.5}',
        '{"reviewerID": "u", "asin": "a", "unixReviewTime": true}',
        '{"reviewerID": "u", "asin": "a", "unixReviewTime": 1' + "0" * 30 + "}",
        '{"reviewerID": "", "asin": "a", "unixReviewTime": 1}',
        '{"reviewerID": "u", "asin": null, "unixReviewTime": 1}',
        '{"reviewerID": "\\ud800", "asin": "a", "unixReviewTime": 1}',
        "[" * 10**6,
    ],
)
def test_malformed_review_is_one_line_that_names_file_and_line(tmp_path, line):
    with pytest.raises(InputError, match=r"reviews_Beauty_5\.json\.gz:3: ") as caught:
        mcauley(tmp_path, [review("u", "a", 1), "", line], [])
    assert "\n" not in str(caught.value)


def test_broken_characters_in_texts_are_replaced(tmp_path):
    raw = mcauley(tmp_path, [review("u", "a", 1)], ["{'asin': 'a', 'title': 'x\\ud800 y'}"])
    assert raw.metadata["a"]["title"] == "x? y"


def test_truncated_and_foreign_files_are_named(tmp_path):
    path = write_gzip(tmp_path / "reviews_X_5.json.gz", *[review("u", "a", n) for n in range(999)])
    write_gzip(tmp_path / "meta_X.json.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"reviews_X_5\.json\.gz: cannot be read behind line \d+"):
        reviews.read_raw(tmp_path)
    path.write_text("not gzip")
    with pytest.raises(InputError, match="cannot be read behind line 0"):
        reviews.read_raw(tmp_path)
    path.write_bytes(gzip.compress(b'{"reviewerID": "\xff"}\n'))
    with pytest.raises(InputError, match=r"reviews_X_5\.json\.gz:1: not UTF-8"):
        reviews.read_raw(tmp_path)


def test_folder_without_known_files_says_what_is_expected(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        reviews.read_raw(tmp_path / "absent")
    with pytest.raises(InputError, match=r"must hold sequences\.txt\.gz and items\.jsonl\.gz, or"):
        reviews.read_raw(tmp_path)
    write_gzip(tmp_path / "sequences.txt.gz", "u a b c")
    with pytest.raises(InputError, match=r"items\.jsonl\.gz: no such file"):
        reviews.read_raw(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["u a b", "v"], ":2: user 'v' without items"), (["u a", "u b"], ":2: user 'u' has a line")],
)
def test_malformed_sequence_lines_are_named(tmp_path, lines, message):
    write_gzip(tmp_path / "sequences.txt.gz", *lines)
    write_gzip(tmp_path / "items.jsonl.gz")
    with pytest.raises(InputError, match=message):
        reviews.read_raw(tmp_path)


def test_both_forms_of_the_same_data_agree(tmp_path, amazon_data):
    """A part of Beauty, rewritten as McAuley's files: item by item, as those were."""
    raw = reviews.read_raw(amazon_data / "beauty")
    cut = np.searchsorted(raw.users, 300)
    users, items = raw.users[:cut], raw.items[:cut]
    starts = np.searchsorted(users, users)
    days = np.arange(cut) - starts
    # Grouped by item as the originals are, but with the first user's line first, and so on.
    first_lines = np.unique(users, return_index=True)[1]
    others = np.setdiff1d(np.arange(cut), first_lines)
    order = np.concatenate([first_lines, others[np.argsort(items[others], kind="stable")]])
    lines = [
        review(raw.user_ids[users[n]], raw.item_ids[items[n]], int(days[n]) * 86_400) for n in order
    ]
    metadata = [repr({"asin": item_id, **row}) for item_id, row in raw.metadata.items()]
    rewritten = mcauley(tmp_path, lines, metadata)
    original = build_sequences(rewritten, min_interactions=2)

    folder = tmp_path / "beauty"
    folder.mkdir()
    sequence_lines = [
        " ".join([raw.user_ids[user], *(raw.item_ids[item] for item in items[users == user])])
        for user in range(300)
    ]
    write_gzip(folder / "sequences.txt.gz", *sequence_lines)
    (folder / "items.jsonl.gz").write_bytes(
        pathlib.Path(amazon_data / "beauty" / "items.jsonl.gz").read_bytes()
    )
    again = reviews.read_raw(folder)
    assert build_sequences(again, min_interactions=2).checksum() == original.checksum()
    assert original.num_users > 200
    for item_id in original.item_ids[1:]:
        assert rewritten.metadata_of(item_id) == again.metadata_of(item_id)
