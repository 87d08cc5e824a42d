"""From content embeddings to Semantic IDs: quantisers, the table, the trie."""
