"""Every reader on damaged and hostile input: a value, or one line that says what is wrong.

The campaign, for as long as there is patience; `test_fuzz.py` runs a short one:

    python -m tests.fuzz_readers --examples=2000
"""

import argparse
import collections
import gzip
import io
import json
import pathlib
import pickle
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiger_jax import artifacts, checkpoints, prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, own_data, reviews
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.recommender import Recommender
from tiger_jax.run_log import RunLog
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

TRACE = "a pickle was run"


class Trap:
    """What leaves a trace in the working folder when it is unpickled."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(TRACE),)


# --- Input ---

# What parsers have stumbled over: numbers too large, nesting too deep, quotes without end, code.
_NASTY = [
    b"9" * 400,
    b"-" * 3000 + b"1",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"(" * 300,
    b"1e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b'"',
    b"'",
    b'""',
    b"\n",
    b"\r",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b",",
    b";" * 50,
    b"x" * 2000,
    b"2" * 19,
    b"1969-12-31T23:59:60Z",
    b"9999-99-99",
    b"__import__('pathlib').Path('a pickle was run').touch()",
    pickle.dumps(Trap()),
]


@st.composite
def mutated(draw, valid: bytes) -> bytes:
    """Valid bytes with one to four places changed."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 40)))
        change = draw(st.sampled_from(["cut", "drop", "put", "flip", "nasty", "twice", "swap"]))
        if change == "cut":
            data = data[:start]
        elif change == "drop":
            data = data[:start] + data[stop:]
        elif change == "put":
            data = data[:start] + draw(st.binary(max_size=8)) + data[stop:]
        elif change == "flip" and start < len(data):
            flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif change == "nasty":
            data = data[:start] + draw(st.sampled_from(_NASTY)) + data[stop:]
        elif change == "twice":
            data = data[:stop] + data[start:]
        elif change == "swap":
            data = data[stop:] + data[start:stop] + data[:start]
    return data


def hostile(valid: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.just(valid), mutated(valid), st.binary(max_size=300), st.sampled_from(_NASTY)
    )


def in_gzip(valid: bytes) -> st.SearchStrategy[bytes]:
    """Hostile text packed well, or well-formed text packed badly."""
    packed = hostile(valid).map(lambda data: gzip.compress(data, 1))
    return st.one_of(packed, packed, hostile(gzip.compress(valid)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def hostile_json(draw, valid: bytes) -> bytes:
    """A JSON object with a value or a key changed; or damaged bytes."""
    value = json.loads(valid)
    if draw(st.booleans()):
        return draw(hostile(valid))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        key = draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from(sorted(place)))
        del place[key]
        if draw(st.booleans()):
            place[key] = draw(json_values)
        if not value:
            break
    return json.dumps(value).encode()


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_that_claims(shape: object, dtype: str, data: bytes = b"") -> bytes:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_ARRAYS = [
    npy(np.array([Trap()], dtype=object), allow_pickle=True),
    npy_that_claims((2**40,), "<f8"),
    npy_that_claims((2**62, 4), "<f8"),
    npy_that_claims((-1, 3), "<i4"),
    npy_that_claims((3,), "|O", pickle.dumps(Trap())),
    npy_that_claims((), "<i4", b"\x01\x00\x00\x00"),
    npy_that_claims((3,), "<U2000000000"),
    npy_that_claims((0, 3), "<f4"),
    npy_that_claims("3", "<f4"),
    npy_that_claims((3,), "__import__('os')"),
    npy(np.array(["a", "b"])),
    npy(np.array([np.nan, np.inf, -1], np.float32)),
    npy(np.arange(6, dtype=np.int64).reshape(2, 3)),
    npy(np.array([2**31 - 1, -(2**31)], np.int32)),
    npy(np.zeros((0, 0), np.int32)),
    npy(np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])),
]


def hostile_npy(valid: bytes) -> st.SearchStrategy[bytes]:
    shapes = st.lists(st.integers(-(2**63), 2**63), max_size=3).map(tuple)
    dtypes = st.sampled_from(["<f4", "<i4", "<i8", "|u1", "|O", "<M8[s]", "|V0", ">c16"])
    claims = st.builds(npy_that_claims, shapes, dtypes, st.binary(max_size=50))
    return st.one_of(hostile(valid), st.sampled_from(_ARRAYS), claims)


@st.composite
def hostile_npz(draw, valid: bytes) -> bytes:
    """An archive in order whose members are not, or one that is damaged itself."""
    if draw(st.integers(0, 3)) == 0:
        return draw(hostile(valid))
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(members)))
        change = draw(st.sampled_from(["array", "values", "header", "absent", "other"]))
        if change == "array":
            members[name] = draw(hostile_npy(members[name]))
        elif change == "values" and name != "header.npy":
            array = _loaded(members[name])
            if array.size and array.dtype.kind in "iu":
                place = draw(st.integers(0, array.size - 1))
                array.flat[place] = draw(st.integers(*_limits(array.dtype)))
            members[name] = npy(array)
        elif change == "header":
            header = draw(hostile_json(_header_of(members)))
            members["header.npy"] = npy(np.frombuffer(header, np.uint8))
        elif change == "absent":
            del members[name]
        elif change == "other":
            members[draw(st.sampled_from(["x.npy", "../x.npy", "header", "items"]))] = b"PK"
        if "header.npy" not in members:
            break
    packed = draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _loaded(member: bytes) -> np.ndarray:
    """A member as an array; an empty one where it was made hostile already."""
    try:
        return np.load(io.BytesIO(member)).copy()
    except Exception:
        return np.zeros(0)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _header_of(members: dict[str, bytes]) -> bytes:
    header = _loaded(members["header.npy"]).tobytes()
    try:
        value = json.loads(header)
    except (ValueError, RecursionError):
        value = None
    return header if isinstance(value, dict) and value else b'{"kind": "sequences"}'


# --- Readers ---


def _gz_lines(*rows: object) -> bytes:
    return gzip.compress(_lines(*rows))


def _lines(*rows: object) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


_REVIEWS = _lines(
    *(
        json.dumps({"reviewerID": f"u{n % 3}", "asin": f"i{n % 4}", "unixReviewTime": n})
        for n in range(12)
    )
)
_LITERALS = _lines(
    *(
        {"asin": f"i{n}", "title": f"\x41 é {n}", "price": 1.5, "categories": [["A", "B"]]}
        for n in range(4)
    )
)
_ITEMS_JSON = _lines(
    *(
        json.dumps({"asin": f"i{n}", "title": f"t{n}", "brand": "b", "categories": [["A"]]})
        for n in range(4)
    )
)
_SEQUENCES = _lines("u1 i0 i1 i2", "u2 i1 i2 i3 i0")
_ORDERS = _lines(
    "user_id,item_id,timestamp", *(f'u{n % 3},"i {n % 4}",2026-03-0{n % 9 + 1}' for n in range(12))
)
_NUMBERED = _lines("user_id\titem_id\ttimestamp", *(f"{n % 3}\t{n % 4}\t{n}.5" for n in range(12)))
_CATALOGUE = _lines(
    "item_id;title;price;category",
    *(f'"i {n}";Thing {n};{n}.50;"A > B; C"' for n in range(4)),
)
_ORDERS_JSON = _lines(
    *(
        json.dumps({"user_id": n % 3, "item_id": f"i {n % 4}", "timestamp": n * 0.5})
        for n in range(12)
    )
)
_CATALOGUE_JSON = _lines(
    *(
        json.dumps({"item_id": f"i {n}", "title": "t", "category": [["A", "B"]], "tags": ["x"]})
        for n in range(4)
    )
)


def _parquet_orders() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"user_id": n % 3, "item_id": f"i {n % 4}", "timestamp": n * 1.5} for n in range(12)]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def _prepared(folder: pathlib.Path) -> None:
    """A prepared folder with IDs, a quantiser and the beginnings of a run."""
    prepare.prepare(
        "synthetic", str(folder), synthetic_users=40, synthetic_items=36, width=4,
        min_interactions=1,
    )  # fmt: skip
    sequences = Sequences.load(folder / "sequences.npz")
    places = len(np.concatenate(sequences.training_sequences()))
    SoftTargets(
        np.ones((places, 2), np.int32), np.full((places, 2), 0.5, np.float32), {"content": 1.0}
    ).save(folder, {"sequences": sequences.checksum(), "content": "content"})
    codes_NL = np.stack(np.unravel_index(np.arange(sequences.num_items), (6, 6)), axis=1)
    header = {"items_checksum": sequences.header["items_checksum"], "scheme": "random"}
    table = SemanticIdTable.from_distinct_codes(codes_NL, (6, 6), header)
    table.save(folder / "ids" / "x" / "semantic_ids.npz")
    arrays = {"mean": np.zeros(4, np.float32), "codebook_0": np.ones((6, 4), np.float32)}
    Quantizer("residual", arrays).save(folder / "quantizer.npz", {})
    network = NetworkConfig(
        vocab_size=64, emb_dim=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
        head_dim=4, mlp_dim=8, dropout_rate=0.0, logits_via_embedding=True,
    )  # fmt: skip
    run = {
        "ids": "x", "table": table.checksum(), "network": vars(network), "num_user_tokens": 4,
        "normalize": "full", "max_history": 4,
    }  # fmt: skip
    artifacts.save_json(folder / "runs" / "r" / "run.json", run)
    artifacts.save_json(
        folder / "runs" / "r" / "checkpoints" / "checkpoint_5" / "metadata.json",
        {"best": {"step": 5, "ndcg@10": 0.5}, "seconds": 3.0},
    )


class Unsearched(Recommender):
    """A recommender that finds the first items for everyone, without a network."""

    def __init__(self, folder: pathlib.Path):
        table = SemanticIdTable.load(folder / "ids" / "x" / "semantic_ids.npz")
        settings = artifacts.load_json(folder / "runs" / "r" / "run.json", "")
        vocabulary = Vocabulary(table.codebook_sizes, 4)
        model = TigerModel(NetworkConfig(**settings["network"]), vocabulary, "full")
        super().__init__(model, {}, table, max_history=4, num_beams=5)

    def _search(self, batch, capacity, num_beams):
        tokens_BS = self.encoder_tokens(batch.users, batch.histories, capacity)
        items_M = 1 + np.arange(num_beams, dtype=np.int32) % self.table.num_items
        shape = (len(tokens_BS), num_beams)
        return np.broadcast_to(items_M, shape), np.zeros(shape, np.float32)


class Campaign:
    """The readers by name, each a strategy of inputs and a function that reads one.

    Args:
      folder: where files are written; also the working folder, where traces would show.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.valid = folder / "valid"
        _prepared(self.valid)
        self.outcomes = collections.defaultdict(collections.Counter)
        self.recommender = Unsearched(self.valid)

    def readers(self) -> dict[str, tuple[st.SearchStrategy, Callable[[object], object]]]:
        texts = {
            "reviews": (in_gzip(_REVIEWS), self._mcauley("reviews_X_5.json.gz")),
            "metadata literals": (in_gzip(_LITERALS), self._mcauley("meta_X.json.gz")),
            "sequence lines": (in_gzip(_SEQUENCES), self._amazon2014("sequences.txt.gz")),
            "metadata lines": (in_gzip(_ITEMS_JSON), self._amazon2014("items.jsonl.gz")),
            "own CSV": (hostile(_ORDERS), self._own("orders.csv")),
            "own numbers": (in_gzip(_NUMBERED), self._own("orders.tsv.gz")),
            "own JSON lines": (hostile(_ORDERS_JSON), self._own("orders.jsonl")),
            "own Parquet": (hostile(_parquet_orders()), self._own("orders.parquet")),
            "own items CSV": (hostile(_CATALOGUE), self._own("items.csv")),
            "own items JSON": (hostile(_CATALOGUE_JSON), self._own("items.jsonl")),
            "own embeddings": (
                hostile_npy(npy(np.eye(4, dtype=np.float32))),
                self._file("v.npy", lambda path: content.ready_made(path, [3, 1], 4)),
            ),
        }
        made = {
            "sequences.npz": (hostile_npz, lambda at: Sequences.load(at / "sequences.npz")),
            "soft_targets.npz": (
                hostile_npz,
                lambda at: SoftTargets.load(at, Sequences.load(at / "sequences.npz"), "content"),
            ),
            "items.jsonl": (hostile, content.load_items),
            "content_embeddings.npy": (hostile_npy, content.load_embeddings),
            "content_embeddings.json": (hostile_json, content.load_embeddings),
            "ids/x/semantic_ids.npz": (
                hostile_npz,
                lambda at: SemanticIdTable.load(at / "ids" / "x" / "semantic_ids.npz").health(),
            ),
            "quantizer.npz": (hostile_npz, lambda at: Quantizer.load(at / "quantizer.npz")),
            "runs/r/run.json": (hostile_json, self._load_run),
            "runs/r/checkpoints/checkpoint_5/metadata.json": (
                hostile_json,
                lambda at: checkpoints.best_step(at / "runs" / "r" / "checkpoints"),
            ),
        }
        artefacts = {
            name: (strategy((self.valid / name).read_bytes()), self._artefact(name, read))
            for name, (strategy, read) in made.items()
        }
        logs = _lines(*(json.dumps({"step": n, "loss": 1.0}) for n in range(4)))
        item = st.integers() | st.floats() | st.text(max_size=3) | st.none() | st.integers(1, 9)
        any_text = st.text(st.characters(exclude_categories=()), max_size=4)
        history = st.lists(item, max_size=6) | st.lists(st.integers(1, 36))
        pairs = st.lists(st.tuples(any_text, history), max_size=3)
        return {
            **texts,
            **artefacts,
            "metrics.jsonl": (
                hostile(logs), self._file("metrics.jsonl", lambda path: RunLog(path.parent, 2)),
            ),
            "histories": (st.tuples(pairs, st.booleans(), st.integers(-1, 40)), self._recommend),
        }  # fmt: skip

    def run(self, name: str, examples: int, **options) -> None:
        """Reads that many inputs; the first that breaks the promise is raised, made small."""
        strategy, read = self.readers()[name]

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **options,
        )
        @given(strategy)
        def promise(data):
            try:
                read(data)
                outcome = "read"
            except InputError as error:
                text = str(error)
                assert "\n" not in text, text
                assert len(text) < 1500, text
                outcome = "refused"
            assert not (self.folder / TRACE).exists()
            assert not pathlib.Path(TRACE).exists()
            self.outcomes[name][outcome] += 1

        promise()

    def _file(self, name, read):
        def read_bytes(data):
            path = self.folder / name
            path.write_bytes(data)
            return read(path)

        return read_bytes

    def _mcauley(self, name):
        def read(path):
            other = {"reviews_X_5.json.gz": _REVIEWS, "meta_X.json.gz": _LITERALS}
            for beside, data in other.items():
                if beside != name:
                    path.with_name(beside).write_bytes(gzip.compress(data))
            names = (path.with_name(beside) for beside in other)
            return reviews.read_mcauley(*names)

        return self._file(name, read)

    def _amazon2014(self, name):
        def read(path):
            other = {"sequences.txt.gz": _SEQUENCES, "items.jsonl.gz": _ITEMS_JSON}
            for beside, data in other.items():
                if beside != name:
                    path.with_name(beside).write_bytes(gzip.compress(data))
            return reviews.read_amazon2014(path.parent)

        return self._file(name, read)

    def _own(self, name):
        def read(path):
            orders, items = path, path.with_name("valid.csv")
            items.write_bytes(_CATALOGUE)
            if name.startswith("items"):
                orders, items = path.with_name("valid.csv"), path
                orders.write_bytes(_ORDERS)
            return own_data.read_raw(orders, items, own_data.Columns(), ("tags",)[: "js" in name])

        if name.startswith("orders"):
            return self._file(name, lambda path: own_data.read_raw(path, None, own_data.Columns()))
        return self._file(name, read)

    def _artefact(self, name, read):
        """Damages one file of the prepared folder, reads, and puts it back."""

        def read_bytes(data):
            path = self.valid / name
            good = path.read_bytes()
            try:
                path.write_bytes(data)
                return read(self.valid)
            finally:
                path.write_bytes(good)

        return read_bytes

    def _load_run(self, folder):
        """All of `Recommender.load` but the parameters, which there are none of."""
        try:
            Recommender.load(folder, "r")
        except InputError as error:
            if "no such checkpoint" not in str(error):
                raise

    def _recommend(self, request):
        pairs, with_users, num_results = request
        users = [user for user, _ in pairs] if with_users else None
        histories = [history for _, history in pairs]
        return self.recommender.recommend(users, histories, num_results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="inputs for each reader")
    parser.add_argument("--reader", default="", help="only readers with this in their name")
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(pathlib.Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in campaign.readers():
            if arguments.reader not in name:
                continue
            started = time.process_time()
            try:
                campaign.run(name, arguments.examples)
            except Exception as error:
                failed.append(name)
                print(f"{name}: BROKEN {type(error).__name__}: {str(error)[:300]}")
                for each in getattr(error, "exceptions", [error]):
                    notes = " ".join(getattr(each, "__notes__", []))
                    print(f"    {type(each).__name__}: {str(each)[:200]} {notes[:600]}")
            seconds = time.process_time() - started
            print(f"{name}: {dict(campaign.outcomes[name])}, {seconds:.0f} s", flush=True)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        total = sum(sum(counts.values()) for counts in campaign.outcomes.values())
        print(f"{total:,} inputs, memory grew by {(after - before) / 1024:.0f} MiB")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
