"""Tables of every form are read alike; what is wrong with one is named with its place."""

import csv
import datetime
import gzip
import json

import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.data import records
from tiger_jax.data.tables import is_table, open_table

ROWS = [
    {"user": "änne", "item": "7", "note": 'two, "quoted"; words\tand\nlines'},
    {"user": "b", "item": "8", "note": ""},
]


def write(path, data):
    """Bytes to a plain or gzip file, as its name says."""
    data = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_csv(path, rows, **form):
    with open(path, "w", newline="", encoding=form.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, rows[0].keys(), **form)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path, rows):
    pa = pytest.importorskip("pyarrow", reason="needs pip install -e .[parquet]")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def values(path):
    table = open_table(path)
    return [row for _, row in table.read(table.columns)]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimited_files_give_what_was_written(tmp_path, delimiter):
    path = write_csv(tmp_path / "t.csv", ROWS, delimiter=delimiter)
    assert open_table(path).columns == ("user", "item", "note")
    assert values(path) == ROWS


def test_spreadsheets_leave_a_mark_at_the_start_that_does_not_count(tmp_path):
    assert values(write_csv(tmp_path / "t.csv", ROWS, encoding="utf-8-sig")) == ROWS


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.json.gz", "T.JSONL"])
def test_json_lines_give_what_was_written(tmp_path, name):
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    assert values(write(tmp_path / name, lines)) == ROWS


def test_parquet_gives_what_was_written(tmp_path):
    assert values(write_parquet(tmp_path / "t.parquet", ROWS)) == ROWS


def test_parquet_times_are_microseconds_since_1970(tmp_path):
    noon = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    path = write_parquet(tmp_path / "t.pq", [{"t": noon, "d": noon.date()}])
    assert values(path) == [{"t": 1_772_366_400_000_000, "d": 1_772_323_200_000_000}]


def test_parquet_reads_only_the_columns_that_are_wanted(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", ROWS)
    assert [row for _, row in open_table(path).read(["item"])] == [{"item": "7"}, {"item": "8"}]


def test_gzip_is_told_by_its_bytes_where_the_name_does_not_say(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert values(path) == [{"a": "1", "b": "2"}]


def test_a_column_that_the_first_json_row_lacks_is_found(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"id": "a"}\n{"id": "b", "title": "B"}\n')
    assert open_table(path).columns == ("id", "title")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "", "t.csv: is empty or begins with a blank line"),
        ("t.csv", "a,b\n", "t.csv: holds no rows"),
        ("t.csv", "a,b\n1,2\n\n3\n", "t.csv:4: has 1 fields, the header 2"),
        ("t.csv", "a,b\n1,2,3\n", "t.csv:2: has 3 fields, the header 2"),
        ("t.csv", "a,a\n1,2\n", "t.csv:1: two columns are called 'a'"),
        ("t.csv", 'a,b\n1,"2\n3,4\n', "t.csv:2: not CSV .*quotation mark"),
        ("t.csv", 'a,b\n1,"2"3\n', "t.csv:2: not CSV"),
        ("t.csv", 'a,b\n1,"' + "x\n" * 100_000, "t.csv:2: not CSV .*field larger"),
        ("t.csv", 'a,b\n1,2\n"3\n4",5\n6,"7\n8,9\n', "t.csv:5: not CSV .*mark in it without"),
        ("t.csv", b"a,b\n1,\xff\n", "t.csv:2: not UTF-8 text .*save the file as UTF-8"),
        ("t.csv", "a,b\n".encode("utf-16"), "t.csv:1: not UTF-8"),
        ("t.csv", "a,b\n1," + "x" * 2**20, "t.csv:2: longer than 1,048,576 bytes"),
        ("t.csv", "x" * 2**21, "t.csv:1: longer than 1,048,576 bytes"),
        ("t.jsonl", "\n\n", "t.jsonl: holds no rows"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "t.jsonl:2: not JSON"),
        ("t.jsonl", '[{"a": 1}]\n', "t.jsonl:1: must be a dictionary, found list; give a record"),
        ("t.jsonl", "[" * 10**6, "t.jsonl:1: not JSON"),
        ("t.jsonl", "9" * 10**5, "t.jsonl:1: not JSON"),
        ("t.parquet", "PAR1 nonsense PAR1", "t.parquet: damaged or no Parquet file"),
        ("t.parquet", "", "t.parquet: damaged or no Parquet file"),
        ("t.xlsx", "", r"t.xlsx: what form has it\? The name must end in one of .csv"),
        ("t.csv.gz", b"", "t.csv.gz: is empty"),
    ],
)
def test_faults_are_one_line_with_file_and_line(tmp_path, name, data, message):
    if ".parquet" in name:
        pytest.importorskip("pyarrow", reason="needs pip install -e .[parquet]")
    path = write(tmp_path / name, data)
    with pytest.raises(InputError, match=message) as caught:
        values(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350 + len(str(tmp_path))


def test_truncated_gzip_says_how_far_it_could_be_read(tmp_path):
    path = write(tmp_path / "t.csv.gz", "a,b\n" + "".join(f"{n},{n * n}\n" for n in range(9999)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"t\.csv\.gz: cannot be read behind line \d{4}"):
        values(path)


def test_folders_and_absent_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        open_table(tmp_path / "absent.csv")
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match=r"t\.csv: is a folder; give a file"):
        open_table(tmp_path / "t.csv")


def test_a_missing_column_lists_those_there_are(tmp_path):
    table = open_table(write(tmp_path / "t.csv", "customer,sku\n1,2\n"))
    table.require("sku", "--item_column")
    with pytest.raises(
        InputError, match=r"t.csv: no column 'user_id'; it has customer, sku; .* --user_column"
    ):
        table.require("user_id", "--user_column")


def test_column_names_with_line_breaks_are_shown_in_one_line(tmp_path):
    """Found by a fuzzer: a quotation mark without its partner makes such names."""
    table = open_table(write(tmp_path / "t.csv", 'ui,"t,\na",\r\nb,c,d\n'))
    with pytest.raises(InputError, match="no column 'u'; it has ui, t, a,") as caught:
        table.require("u", "--user_column")
    assert len(str(caught.value).splitlines()) == 1


def test_names_tell_tables_from_folders():
    assert is_table("shop/orders.csv")
    assert is_table("orders.JSONL.gz")
    assert is_table("x.parquet")
    assert not is_table("synthetic")
    assert not is_table("shop/beauty")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[parquet\]"):
        open_table(write(tmp_path / "t.parquet", "x"))


@pytest.mark.parametrize("value", ["x" * 1001, "é" * 501])
def test_ids_of_any_length_are_not_taken(value):
    assert records.identifier(value[:500], "id", "f:1") == value[:500]
    with pytest.raises(InputError, match=r"f:1: field 'id' is longer than 1,000 bytes"):
        records.identifier(value, "id", "f:1")
