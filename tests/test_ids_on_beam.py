"""The Beam pipeline gives the IDs that make_ids gives. Needs the extra `beam`."""

import functools
import shutil

import numpy as np
import pytest

from tiger_jax import make_ids, prepare
from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import schemes
from tiger_jax.semantic_ids.table import SemanticIdTable

pytest.importorskip("apache_beam", reason="needs pip install -e .[beam]")

from launch import ids_on_beam

RESIDUAL = functools.partial(schemes.residual, codebook_sizes=(8, 8))
functools.update_wrapper(RESIDUAL, schemes.residual)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder whose 120 items have many equal codes."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare.prepare("synthetic", str(folder), width=16, synthetic_users=300, synthetic_items=120)
    make_ids.make_ids(str(folder), "mine", RESIDUAL)
    return folder


@pytest.mark.parametrize("embed", [False, True])
def test_pipeline_equals_make_ids(folder, tmp_path, embed):
    made = SemanticIdTable.load(folder / "ids" / "mine" / "semantic_ids.npz")
    assert made.health()["collisions"] > 30
    ids_on_beam.ids_on_beam(str(folder), "mine", str(tmp_path), embed=embed, shard_items=7)
    table = SemanticIdTable.load(tmp_path / "semantic_ids.npz")
    np.testing.assert_array_equal(table.semantic_ids_NI, made.semantic_ids_NI)


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ids_on_beam.main(
            ["ids_on_beam", f"--folder={folder}", "--ids=other", f"--output={tmp_path}"]
        )
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "semantic_ids.npz: no such file" in line


def test_items_beyond_the_tokens_and_without_tokens_are_refused():
    assert list(ids_on_beam.semantic_ids(((4, 2), [9, 3]), 2)) == [(3, (4, 2, 0)), (9, (4, 2, 1))]
    assert list(ids_on_beam.semantic_ids(((4, 2), [9]), None)) == [(9, (4, 2))]
    for collision_size in (1, None):
        with pytest.raises(InputError, match=r"2 items share the codes \(4, 2\)"):
            list(ids_on_beam.semantic_ids(((4, 2), [9, 3]), collision_size))


def test_codes_that_were_shared_out_are_refused(folder, tmp_path):
    made = SemanticIdTable.load(folder / "ids" / "mine" / "semantic_ids.npz")
    shared = SemanticIdTable(
        made.semantic_ids_NI, made.codebook_sizes, made.header | {"balanced": True}
    )
    shared.save(folder / "ids" / "shared" / "semantic_ids.npz")
    with pytest.raises(InputError, match="last codes were shared out"):
        ids_on_beam.ids_on_beam(str(folder), "shared", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cooccurrence_width": 8}, "come together in training"),
        ({"parameters_checksum": "of another"}, "quantizer.npz"),
        ({"items_checksum": "of others"}, "made for other items"),
    ],
)
def test_ids_that_the_quantiser_did_not_make_are_refused(folder, tmp_path, changes, message):
    made = SemanticIdTable.load(folder / "ids" / "mine" / "semantic_ids.npz")
    home = tmp_path / "prepared"
    shutil.copytree(folder, home)
    other = SemanticIdTable(made.semantic_ids_NI, made.codebook_sizes, made.header | changes)
    other.save(home / "ids" / "mine" / "semantic_ids.npz")
    with pytest.raises(InputError, match=message):
        ids_on_beam.ids_on_beam(str(home), "mine", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_shards_have_items(folder, tmp_path):
    with pytest.raises(InputError, match="shard_items is 0; give 1 or more"):
        ids_on_beam.ids_on_beam(str(folder), "mine", str(tmp_path), shard_items=0)
