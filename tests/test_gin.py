"""Every gin file parses, and every experiment card is complete."""

import pathlib

import jax
import pytest

import gin
from tiger_jax import command_line, eval, make_ids, prepare, recommend, teach, train
from tiger_jax.model.model import TigerModel, num_parameters
from tiger_jax.model.network import NetworkConfig
from tiger_jax.vocabulary import Vocabulary

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Those of T5X need T5X: tests/test_t5x.py.
FILES = sorted(path for path in (ROOT / "gin").rglob("*.gin") if path.parent.name != "t5x")
EXPERIMENTS = sorted((ROOT / "gin" / "experiment").glob("*.gin"))
VERBS = {
    prepare.prepare: {"source", "folder"},
    make_ids.make_ids: {"folder", "ids", "scheme", "seed"},
    train.train: {"folder", "ids", "run", "network", "optimizer", "num_steps", "seed"},
    eval.evaluate: {"folder", "run"},
    recommend.recommend: {"folder", "run"},
    teach.teach: {"folder", "teacher_weight", "imagined_users", "max_history"},
}


@pytest.fixture(autouse=True)
def clean_gin(monkeypatch):
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_parses_and_says_what_it_is(path):
    gin.parse_config_file(str(path))
    header = path.read_text().split("from __gin__")[0]
    assert header.startswith("# ")
    if path in EXPERIMENTS:
        commands = [line for line in header.splitlines() if line.startswith("#   ")]
        used = (f"gin/experiment/{path.name}", "launch.reproduce", "launch/quickstart.sh")
        assert any(name in command for command in commands for name in used)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_card_sets_up_every_verb(path, verb):
    gin.parse_config_file(str(path))
    assert set(gin.get_bindings(verb)) >= VERBS[verb]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_what_is_taught_is_what_is_trained_on(path):
    gin.parse_config_file(str(path))
    for name in ("folder", "teacher_weight", "imagined_users", "max_history"):
        taught, trained = (
            gin.get_bindings(verb, resolve_references=True)[name]
            for verb in (teach.teach, train.train)
        )
        assert taught == trained


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_card_builds_its_network_and_optimizer(path):
    gin.parse_config_file(str(path))
    bound = gin.get_bindings(train.train)
    assert isinstance(bound["network"], NetworkConfig)
    assert callable(bound["optimizer"].update)


@pytest.mark.parametrize(("name", "count"), [("tiger", 12_684_416), ("tiger_compact", 4_846_976)])
def test_the_models_have_their_number_of_parameters(name, count):
    gin.parse_config_file(f"gin/model/{name}.gin")
    config = gin.query_parameter("%NETWORK").scoped_configurable_fn()
    model = TigerModel(config, Vocabulary((256, 256, 256, 256), 2000))
    assert num_parameters(jax.eval_shape(model.init, jax.random.key(0))) == count


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_flag_is_described(verb, capsys):
    with pytest.raises(SystemExit):
        command_line.run(verb, ["verb", "--help"])
    options = capsys.readouterr().out.split("Options:")[1].splitlines()
    for line in options:
        if line.strip().startswith("--"):
            assert len(line.split()) >= 3, f"no description: {line}"
