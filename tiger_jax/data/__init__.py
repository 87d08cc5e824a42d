"""From reviews to item sequences, item text and content embeddings."""
