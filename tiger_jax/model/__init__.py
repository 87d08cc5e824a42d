"""The sequence model: network, loss, constrained beam search."""
