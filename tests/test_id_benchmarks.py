"""The commands behind the figures on Semantic IDs, tiny."""

import json
import sys

import pytest

from benchmarks import large_catalogue
from benchmarks import rqvae as rqvae_speed
from launch.experiments import health

ROW = {
    "dataset": "beauty", "card": "lsh", "epochs": None, "items": 1000, "largest_bucket": 3,
    "codebook_usage": [1.0, 0.75], "explained_variance": None,
}  # fmt: skip


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(rqvae_speed, "_HIDDEN_SIZES", (16,))
    monkeypatch.setattr(rqvae_speed, "_LATENT_SIZE", 4)
    monkeypatch.setattr(rqvae_speed, "_CODEBOOK_SIZES", (8, 8, 8))


def test_speed_of_the_rqvae_is_compared_only_at_equal_losses(small_network, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is the other contestant")
    monkeypatch.setitem(sys.modules, "modules", None)  # the other peer's: not here
    sizes = {"num_items": 100, "embed_size": 12, "batch_size": 32, "epochs": 1, "rounds": 1}
    result = json.loads(json.dumps(rqvae_speed.benchmark(**sizes)))
    assert result["losses"]["pytorch"] == pytest.approx(result["losses"]["tiger_jax"], rel=1e-4)
    assert result["losses"]["tiger_jax_bfloat16"] != result["losses"]["tiger_jax"]
    assert result["ratio_vs_pytorch"]["float32_processor"] > 0
    assert result["ratio_vs_rqvae_recommender"] is None
    # 12 -> 16 -> 4 and back: 192 + 64 multiplications, of which all but the first 192 three times.
    assert rqvae_speed._products(12) == (6 * (192 + 64) - 192) / 192
    monkeypatch.setattr(rqvae_speed, "_plain_loss", lambda torch, model, x: torch.tensor(1.0))
    with pytest.raises(ValueError, match="the losses differ"):
        rqvae_speed.benchmark(**sizes)


def test_large_catalogue_gives_every_item_an_id(tmp_path, monkeypatch):
    small = {"hidden_sizes": (16,), "latent_size": 4, "codebook_sizes": (8, 8, 8)}
    monkeypatch.setattr(large_catalogue, "_NETWORK", small)
    result = large_catalogue.benchmark(
        str(tmp_path / "large.npy"), num_items=2500, embed_size=8, sample_items=500, num_epochs=1
    )
    assert result["items"] == 2500
    assert result["unique"] + result["collisions"] == 2500
    assert result["peak_gib_beyond_the_map"] > 0


def test_section_of_the_results_has_a_line_a_dataset_and_card():
    rows = [
        ROW | {"seed": 0, "unique": 900, "collisions": 100},
        ROW | {"seed": 1, "unique": 920, "collisions": 80, "codebook_usage": [0.9, 0.8]},
    ]
    line = "| beauty | lsh | 2 | 90% 75% | 910 ± 14 of 1,000 | 90 ± 14 | 3 | - |"
    assert health.table(rows).splitlines()[2:] == [line]
    assert line in health.section({"command": "a command", "rows": rows})
