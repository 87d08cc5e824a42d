"""SeqIO tasks for T5X; imported by gin files and by SeqIO's scripts, never by tiger_jax."""
