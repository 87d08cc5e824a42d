"""TIGER, "Recommender Systems with Generative Retrieval", in JAX and Flax.

Names of arrays end in the letters of their axes:

    B batch            N items              E content-embedding width   Z latent width
    L levels           C codes of a level   S source tokens             T target tokens
    D model width      H heads              K head width                F feed-forward width
    V vocabulary       M beams              R ranked results            I parts of an ID
    P trie nodes       G categories of items
"""
