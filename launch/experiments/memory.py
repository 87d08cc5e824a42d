"""Memory of the look-ups and of the embeddings (TIGER appendix E), measured on the arrays in use.

The paper reckons 32 bits for an item's number and 32 for four codes of 8, so 64 N bits for each of
two look-up tables; and 1,024 d numbers of embeddings in place of N d.
"""

import sys

import jax
import numpy as np

from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown
from launch.experiments.setting import DATASETS, Setting
from tiger_jax.semantic_ids.trie import Trie


def run(setting: Setting) -> dict:
    """Bytes of what TIGER keeps for N items, and of what one embedding an item would take."""
    table = setting.table(setting.ids())
    trie = Trie.from_semantic_ids(table.semantic_ids_NI, table.codebook_sizes)
    semantic_ids = table.semantic_ids_NI[1:].tolist()
    item_of = {tuple(semantic_id): item for item, semantic_id in enumerate(semantic_ids, start=1)}
    width, num_items = setting.network().emb_dim, table.num_items
    num_codes = sum(table.codebook_sizes)
    code_embeddings = np.zeros((num_codes, width), np.float32)
    item_embeddings = np.zeros((num_items, width), np.float32)
    return {
        "items": num_items,
        "parts": table.id_length,
        "codes": num_codes,
        "width": width,
        "item_to_id_bytes": table.semantic_ids_NI.nbytes,
        "id_to_item_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trie)),
        "python_dict_bytes": sys.getsizeof(item_of)
        + sum(sys.getsizeof(key) + sys.getsizeof(item) for key, item in item_of.items()),
        "paper_lookup_bytes": 64 * num_items // 8,
        "code_embeddings_bytes": code_embeddings.nbytes,
        "item_embeddings_bytes": item_embeddings.nbytes,
    }


def show(results: list[dict]) -> str:
    """A row a dataset, in bytes an item where the paper reckons so."""
    rows = []
    for result in results:
        found = result["values"]
        rows.append(
            [
                result["dataset"],
                f"{found['items']:,}",
                *(
                    f"{found[name]:,} ({found[name] / found['items']:.1f})"
                    for name in (
                        "item_to_id_bytes",
                        "id_to_item_bytes",
                        "python_dict_bytes",
                        "paper_lookup_bytes",
                        "code_embeddings_bytes",
                        "item_embeddings_bytes",
                    )
                ),
                f"{found['item_embeddings_bytes'] / found['code_embeddings_bytes']:.1f}",
            ]
        )
    header = ["", "N", "item to ID", "ID to item: the trie", "the same as a Python dictionary"]
    header += ["*each, in the paper: 64 N bits*", "codes' embeddings", "N embeddings", "ratio"]
    return (
        "Bytes, and bytes an item. The table of IDs keeps 32 bits a code where the paper reckons "
        "with 8; the trie that the search walks is also the look-up from IDs to items. Embeddings "
        "are float32, as wide as those of the model at that budget (TIGER: 1,024 d in place of "
        "N d, where the collision token's are among the 1,024).\n\n" + markdown(header, rows)
    )


EXPERIMENT = Experiment(
    name="memory",
    title="Memory of look-ups and embeddings (appendix E)",
    datasets=DATASETS,
    cost="IDs of each dataset",
    run=run,
    show=show,
    most_seeds=1,
)
