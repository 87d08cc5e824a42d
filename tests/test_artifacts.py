"""Files are whole or absent, and say what is wrong with them."""

import contextlib
import hashlib
import pickle
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError


def test_arrays_and_header_come_back(tmp_path):
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    artifacts.save_arrays(tmp_path / "deep" / "x.npz", "thing", {"seed": 1, "naïve": "ü"}, a=array)
    header, arrays = artifacts.load_arrays(tmp_path / "deep" / "x.npz", "thing", "make it")
    assert header == {"kind": "thing", "seed": 1, "naïve": "ü"}
    assert arrays["a"].dtype == np.int32
    assert (arrays["a"] == array).all()


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in "ab":
        artifacts.save_arrays(tmp_path / name, "thing", {"x": 1, "y": 2}, a=np.ones(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def fail_half_way():
        with artifacts.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    abandoned = tmp_path / ".x.abandoned.tmp"
    abandoned.write_text("half")
    with artifacts.atomic_path(tmp_path / "x") as living:
        assert not abandoned.exists()
        living.write_text("first")
        with artifacts.atomic_path(tmp_path / "x") as other:
            other.write_text("second")
        assert (tmp_path / "x").read_text() == "second"
        assert living.exists()
    assert (tmp_path / "x").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def owning(folder):
    """The command of a process that owns a folder, says so, and waits."""
    code = "import sys\nfrom tiger_jax import artifacts\nartifacts.own(sys.argv[1])\n"
    code += "print(1, flush=True)\ninput()"
    return [sys.executable, "-c", code, str(folder)]


@contextlib.contextmanager
def owned_elsewhere(folder):
    """A folder that another process owns until the block ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(owning(folder), **pipes) as other:
        assert other.stdout.readline() == b"1\n"
        yield
        other.kill()


def test_a_folder_is_one_living_process_own(tmp_path):
    is_refused = pytest.raises(InputError, match="run: another process is at work on it; wait for")
    with owned_elsewhere(tmp_path / "run"), is_refused:
        artifacts.own(tmp_path / "run")
    # Locks die with their process, and are no hindrance to the process that has them.
    artifacts.own(tmp_path / "run")
    artifacts.own(tmp_path / "run")
    refused = subprocess.run(owning(tmp_path / "run"), capture_output=True, check=False)
    assert b"another process is at work" in refused.stderr


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x.npz: cannot be written"):
        artifacts.save_arrays(tmp_path / "file" / "x.npz", "thing", {})


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def _not_a_zip(path):
    path.write_bytes(b"hello")


def _empty(path):
    path.write_bytes(b"")


def _without_header(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(2))


def _pickled(path):
    path.write_bytes(pickle.dumps({"a": 1}))


@pytest.mark.parametrize("damage", [_truncated, _not_a_zip, _empty, _without_header, _pickled])
def test_damage_is_one_line_that_says_what_to_run(tmp_path, damage):
    path = tmp_path / "x.npz"
    artifacts.save_arrays(path, "thing", {}, a=np.ones(100))
    damage(path)
    with pytest.raises(InputError, match=r"x.npz: damaged.*make it again with the maker") as caught:
        artifacts.load_arrays(path, "thing", "the maker")
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_kind(tmp_path):
    with pytest.raises(InputError, match="no such file; make it with the maker"):
        artifacts.load_arrays(tmp_path / "x.npz", "thing", "the maker")
    artifacts.save_arrays(tmp_path / "x.npz", "other", {})
    with pytest.raises(InputError, match="not a thing file"):
        artifacts.load_arrays(tmp_path / "x.npz", "thing", "the maker")


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    with open(tmp_path / "x.npz", "wb") as file:
        np.savez(file, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="damaged"):
        artifacts.load_arrays(tmp_path / "x.npz", "thing", "the maker")


def test_packed_archives_are_not_unpacked(tmp_path):
    """A kilobyte that would unpack to a gigabyte is refused before any of it is."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, header=np.zeros(1 << 20, np.uint8))
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged or not a thing file"):
        artifacts.load_arrays(path, "thing", "the maker")
    assert tracemalloc.get_traced_memory()[1] < 1 << 19
    tracemalloc.stop()


def test_a_header_that_claims_more_than_the_file_holds_is_damage(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(artifacts.load_array(path, "it"), np.zeros((2, 3)))
    path.write_bytes(path.read_bytes().replace(b"(2, 3)", b"(2, 9)"))
    with pytest.raises(InputError, match=r"x\.npy: damaged or not a \.npy file; make it again"):
        artifacts.load_array(path, "it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "x.json: damaged or not a JSON file; make it again with it"),
        ("\ud800", "damaged or not a JSON"),
        ("[1]", "x.json: must hold a dictionary"),
        ('{"a": 1}', "x.json: lacks b, c; make it again with it"),
    ],
)
def test_json_that_is_not_what_it_must_be(tmp_path, text, message):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=message):
        artifacts.load_json(tmp_path / "x.json", "it", ["a", "b", "c"])


def test_checksum_tells_types_shapes_and_boundaries_apart():
    zeros = np.zeros(4, np.int32)
    different = [
        artifacts.checksum(zeros),
        artifacts.checksum(zeros.reshape(2, 2)),
        artifacts.checksum(zeros.astype(np.float32)),
        artifacts.checksum("ab", "c"),
        artifacts.checksum("a", "bc"),
    ]
    assert len(set(different)) == 5
    assert artifacts.checksum(zeros.reshape(2, 2).T) == artifacts.checksum(zeros.reshape(2, 2))


def test_file_checksum_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert artifacts.file_checksum(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()[:16]


def test_provenance_minds_changed_code_and_not_what_commands_write(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "__file__", str(tmp_path / "tiger_jax" / "artifacts.py"))
    provenance = artifacts.provenance.__wrapped__
    assert provenance() == {"commit": "unknown"}
    for name in ("tiger_jax/code.py", "docs/results.md", "results/table.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "All")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit = provenance()["commit"]
    assert len(commit) == 12
    (tmp_path / "docs/results.md").write_text("after")
    (tmp_path / "results/table.json").write_text("after")
    assert provenance() == {"commit": commit}
    (tmp_path / "tiger_jax/code.py").write_text("after")
    assert provenance() == {"commit": commit + "+"}


def test_provenance_is_that_of_the_start(monkeypatch):
    at_the_start = artifacts.provenance()
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("asked again"))
    assert artifacts.provenance() == at_the_start


def test_a_setting_that_is_another_is_named_with_the_entry_in_which_it_differs():
    begun, remedy = "run.json: the run was begun", "give another name"
    then = {"network": {"width": 8, "heads": 2}, "seed": 0, "of older versions": 1}
    artifacts.require_same(begun, then, {"network": then["network"], "seed": 0}, remedy)
    for now, message in [
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"network": {"width": 8, "heads": 4}}, "network.heads = 2, now it is 4"),
        ({"network": {"width": 8}}, "network.heads = 2, now it is not set"),
        ({"network": {**then["network"], "mlp": None}}, "network.mlp = not set, now it is None"),
        ({"network": 8}, "network = {'width': 8, 'heads': 2}, now it is 8"),
        ({"ids": "new"}, "ids = None, now it is new"),
    ]:
        with pytest.raises(artifacts.InputError) as caught:
            artifacts.require_same(begun, then, now, remedy)
        assert str(caught.value) == f"{begun} with {message}; {remedy}"


@pytest.mark.parametrize(
    ("require", "value", "message"),
    [
        (artifacts.require_shares, 1.5, "x is 1.5; give 0 to 1"),
        (artifacts.require_shares, None, "x is None; give 0 to 1"),
        (artifacts.require_shares_below_one, 1, "x is 1; give 0 or more, less than 1"),
        (artifacts.require_shares_below_one, "0.1", "x is '0.1'; give 0 or more, less than 1"),
    ],
)
def test_shares_are_numbers_within_bounds(require, value, message):
    require(x=0), require(x=np.float32(0.5))
    with pytest.raises(artifacts.InputError, match=f"^{re.escape(message)}$"):
        require(x=value)
