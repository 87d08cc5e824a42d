"""Every table and figure of the paper at toy size; the page of results; what is refused."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from launch import reproduce, results_page
from launch.experiments import beyond, figure5, named, recbole, scores, table1
from launch.experiments.budgets import BUDGETS
from launch.experiments.scores import SCORES
from launch.experiments.setting import Setting
from tiger_jax import (
    artifacts,
    eval,
    fusion,
    log_linear,
    make_ids,
    prepare,
    saved_run,
    teach,
    train,
)
from tiger_jax.data import content
from tiger_jax.data.hold_out import HoldOut
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.semantic_ids.table import SemanticIdTable

# Settings of JAX that the command changes.
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")

NAMES = [
    *(f"table{number}" for number in range(1, 11)),
    *("id_shapes", "figure4", "figure5", "figure6", "memory", "infrequent", "beyond"),
]


def test_list_has_exactly_the_names_each_with_its_cost(capsys):
    reproduce.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 1 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table11"], ", ".join(NAMES)),
        ([], "no NAME given"),
        (["table6", "--budget=large"], "--budget=large: choose one of paper, cpu, toy"),
        (["table6", "--seeds=0"], "--seeds=0: at least 1"),
        (["table6", "--dataset=books"], "not for books"),
        # Before anything is measured.
        (["table6", "table5", "--dataset=toys"], "table5: is for beauty, not for toys"),
        (["table6", "--datasets=beauty"], "unrecognized arguments: --datasets=beauty; see --help"),
        (["table6", f"--out={__file__}"], "test_reproduce.py: is a file; give --out a folder"),
        (["table6", "--budget=toy", f"--out={results_page.RESULTS}"], "another --out"),
        (["table6", f"--out={results_page.PAGE.parent}"], "holds the page of the results in"),
    ],
)
def test_a_fault_of_the_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        reproduce.main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    assert message in captured


@pytest.mark.parametrize(("budget", "there"), [("toy", "cpu"), ("cpu", "toy"), ("paper", "toy")])
def test_toys_do_not_stand_beside_real_data(budget, there, tmp_path, capsys):
    result = tmp_path / f"table6_beauty_{there}.json"
    result.touch()
    with pytest.raises(SystemExit) as end:
        reproduce.main(["table6", f"--budget={budget}", f"--out={tmp_path}"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {result}: toys and real data")
    assert list(tmp_path.iterdir()) == [result]


SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}

# --- Toy size of every name ---


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder in which all names run at toy size, sharing what they make and compile."""
    folder = tmp_path_factory.mktemp("reproduce")
    kept = {name: getattr(jax.config, name) for name in CACHE}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb in (prepare, make_ids, train, eval):
            # Pages to look at have tests of their own, and take longer to draw than a toy to train.
            patch.setattr(verb.report, "write", lambda *arguments: None)
        yield folder
    for name, value in kept.items():
        jax.config.update(name, value)


def run(name, *flags):
    reproduce.main([name, "--budget=toy", "--dataset=beauty", *flags])
    path = pathlib.Path("work/reproduce_toy/results", f"{name}_beauty_toy.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_runs_at_toy_size_and_has_its_section(name, toy):
    # Three seeds are for those who have the time.
    result = run(name, *(["--seeds=2"] if name == "table9" else []))
    assert result["values"]
    page = pathlib.Path("work/reproduce_toy/results/results.md").read_text()
    section = page.split(f"## {named(name).title}\n")[1].split("\n## ")[0]
    assert f"[{name}_beauty_toy.json](./{name}_beauty_toy.json)" in section
    for picture in re.findall(r"\]\((pictures/.*?)\)", section):
        signature = pathlib.Path("work/reproduce_toy/results", picture).read_bytes()[:8]
        assert signature == b"\x89PNG\r\n\x1a\n"


def test_a_result_says_what_it_was_made_from(toy):
    result = run("table8")
    sequences = Sequences.load("work/reproduce_toy/beauty/sequences.npz")
    assert result["values"]["rows"]["with user tokens"]["seeds"] == result["seeds"] == [0]
    table = SemanticIdTable.load("work/reproduce_toy/beauty/ids/rqvae_adamw/semantic_ids.npz")
    assert result["tables"] == {"rqvae_adamw": table.checksum()}
    assert {"commit", "hardware", "date", "command", "encoder", "text_fields"} <= set(result)
    embeddings_NE, source = content.load_embeddings("work/reproduce_toy/beauty")
    parts = sequences.checksum(), source["texts_checksum"], "tfidf"
    assert result["data"] == artifacts.checksum(*parts)
    # Another processor rounds otherwise: the same data. Another encoder: others.
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    header = {name: value for name, value in source.items() if name != "checksum"}
    content.save_embeddings(setting.folder, np.nextafter(embeddings_NE, 1), header)
    assert setting.facts()["data"] == result["data"]
    content.save_embeddings(setting.folder, embeddings_NE, header | {"encoder": "another"})
    assert setting.facts()["data"] != result["data"]
    content.save_embeddings(setting.folder, embeddings_NE, header)


def test_figure_6_searches_freely_and_table_3_draws(toy):
    """Restricted to the catalogue nothing is invalid, and without heat every row is the beam's."""
    assert run("figure6")["values"]["invalid"][9] > 0
    rows = run("table3")["values"]["rows"]
    beam = rows.pop("beam search")
    assert len(rows) == 7
    assert all(row != beam for row in rows.values())
    assert rows["T = 2.0"] != rows["T = 1.0"]


def test_tiger_has_the_cards_teacher_and_what_stands_for_p5_has_none(toy):
    run("table1")
    runs = pathlib.Path("work/reproduce_toy/beauty/runs")
    for name, weight in (("toy-rqvae_adamw-0", 0.75), ("toy-text-no_teacher-0", 0.0)):
        assert json.loads((runs / name / "run.json").read_text())["teacher_weight"] == weight


def test_table_1_has_the_product_that_teaches_tiger(toy):
    product = run("table1")["values"]["rows"][scores.PRODUCT]
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    setting.train()
    embeddings_NE, source = content.load_embeddings(setting.folder)
    taught = SoftTargets.load(setting.folder, setting.sequences, source["checksum"])
    assert product["exponents"] == taught.exponents
    # By the definition, user by user.
    opinions = log_linear.counted(setting.sequences.training_sequences(), embeddings_NE)
    ranks = []
    for history, target in zip(*setting.sequences.split("test"), strict=True):
        found = opinions([history])
        score_N = sum(power * found[name][0] for name, power in taught.exponents.items())
        score_N[[0, *history]] = -np.inf
        ranks.append(np.sum(score_N > score_N[target]))
    assert product["scores"]["recall@10"]["value"] == pytest.approx(np.mean(np.array(ranks) < 10))


def test_a_folder_taught_in_another_way_is_taught_again(toy):
    """Soft targets of a folder do not say by their name who was imagined."""
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    _, source = content.load_embeddings(setting.folder)

    def taught():
        return SoftTargets.load(setting.folder, setting.sequences, source["checksum"])

    setting.train()
    as_the_card_has_it = taught()
    assert len(as_the_card_has_it.imagined) == 50
    for others in ({"imagined_users": 49}, {"imagined_users": 50, "num_expected": 7}):
        teach.teach(str(setting.folder), **others)
        setting.train()
        assert taught().checksum() == as_the_card_has_it.checksum()


def test_what_is_there_is_not_measured_again(toy, monkeypatch):
    run("table8")
    path = pathlib.Path("work/reproduce_toy/results/table8_beauty_toy.json")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(Setting, "_run", lambda *arguments: pytest.fail("a verb ran"))
    run("table8")
    assert path.stat().st_mtime_ns == before


def cut_after_the_first_row(monkeypatch):
    """Table 8 of a folder where it was measured, as a process that was killed leaves it."""
    path = pathlib.Path("work/reproduce_toy/results/table8_beauty_toy.json")
    path.unlink()
    tiger = Setting.tiger

    def cut(setting, *arguments, variant="", **options):
        if not variant:
            raise SystemExit(130)
        return tiger(setting, *arguments, variant=variant, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Setting, "tiger", cut)
        with pytest.raises(SystemExit):
            run("table8")
    return path


def test_what_was_found_before_a_cut_is_shown_and_gone_on_with(toy, monkeypatch):
    whole = run("table8")
    path = cut_after_the_first_row(monkeypatch)
    part = json.loads(path.read_text())
    assert list(part["values"]["rows"]) == ["no user information"]
    page = path.with_name("results.md")
    assert "NOT COMPLETE" in page.read_text()
    # As on another machine, where the run of the row is not there to be evaluated again.
    runs = pathlib.Path("work/reproduce_toy/beauty/runs")
    runs.rename(runs.with_name("elsewhere"))
    shutil.copytree(runs.with_name("elsewhere") / "toy-rqvae_adamw-0", runs / "toy-rqvae_adamw-0")
    assert run("table8")["values"] == whole["values"]
    assert [path.name for path in runs.iterdir()] == ["toy-rqvae_adamw-0"]
    assert "NOT COMPLETE" not in page.read_text()
    shutil.rmtree(runs)
    runs.with_name("elsewhere").rename(runs)


def test_a_row_of_another_recipe_is_made_again(toy, monkeypatch, capsys):
    whole = run("table8")
    path = cut_after_the_first_row(monkeypatch)
    part = json.loads(path.read_text())
    row = part["values"]["rows"]["no user information"]
    row |= {"recipe": "another", "seeds": [0, 1]}
    path.write_text(json.dumps(part))
    assert run("table8")["values"] == whole["values"]
    assert "no user information: was recorded of another recipe" in capsys.readouterr().out


def test_ids_made_anew_must_be_those_of_the_rows_recorded(toy):
    recorded = {"rows": {"4 layers": {}}}
    setting = Setting("beauty", BUDGETS["toy"], (0,), recorded, {"rqvae_adamw": "x"})
    with pytest.raises(artifacts.InputError, match="rows recorded so far are of x; remove"):
        setting.ids()


def test_ids_by_another_command_are_made_again(toy):
    """As if by hand, of the same name: nothing about them says so but their codes."""
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    path = setting.folder / "ids" / setting.ids("lsh") / "semantic_ids.npz"
    ours = SemanticIdTable.load(path)
    flags = [f"--folder={setting.folder}", "--ids=lsh", "--seed=1", "--min_codebook_usage=0"]
    make_ids.main(["make_ids", "--gin_file=gin/ids/lsh.gin", *flags, "--gin.HYPERPLANES=3"])
    assert SemanticIdTable.load(path).checksum() != ours.checksum()
    setting.ids("lsh")
    assert SemanticIdTable.load(path).checksum() == ours.checksum()


def test_ids_are_made_again_when_what_they_are_made_from_changes(toy):
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    record = setting.folder / "ids" / setting.ids("lsh", joined_with="a") / "made.json"
    assert json.loads(record.read_text())["joined_with"] == "a"
    made = record.stat().st_mtime_ns
    setting.ids("lsh", joined_with="a")
    assert record.stat().st_mtime_ns == made
    setting.ids("lsh", joined_with="b")
    assert json.loads(record.read_text())["joined_with"] == "b"
    setting.ids("lsh")


def test_cold_start_is_of_the_embeddings_that_are_there(toy):
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    held_out = HoldOut.draw(setting.sequences, 0.2, seed=0)
    cold = figure5._of_seen_items(setting, held_out)
    embeddings_NE, header = content.load_embeddings(setting.folder)
    theirs_SE, _ = content.load_embeddings(cold.folder)
    np.testing.assert_array_equal(theirs_SE, embeddings_NE[held_out.seen - 1])
    # Another processor's last bits are no other embeddings; those of other texts are.
    content.save_embeddings(setting.folder, embeddings_NE + np.float32(1e-6), header)
    figure5._of_seen_items(setting, held_out)
    content.save_embeddings(setting.folder, embeddings_NE[::-1], header)
    with pytest.raises(artifacts.InputError, match=r"_seen: was made from other data .* remove it"):
        figure5._of_seen_items(setting, held_out)
    content.save_embeddings(setting.folder, embeddings_NE, header)


def test_a_fusion_that_was_chosen_in_another_way_is_refused(toy):
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    path = fusion.path_of(setting.folder, "some run", "counts")
    ours = {"sasrec": "", "num_users": 64, "num_beams": 20, "prior_items": 256, "seed": 0}
    artifacts.save_json(path, ours | {"num_users": 512})
    with pytest.raises(artifacts.InputError, match=r"chosen with num_users = 512, now it is 64; "):
        beyond._fusion(setting, None, "some run", "counts")
    shutil.rmtree(path.parent.parent)


def test_seeds_that_a_table_cannot_use_are_not_asked_for(toy):
    once = run("table4")
    assert once["seeds"] == [0]
    assert run("table4", "--seeds=3") == once


def test_what_was_begun_with_more_seeds_goes_on_with_all_of_them(toy):
    path = pathlib.Path("work/reproduce_toy/results/table9_beauty_toy.json")
    two = run("table9", "--seeds=2")
    row = two["values"]["rows"]["TIGER"]
    assert row["seeds"] == [0, 1]
    one = scores.joined([scores.by_seed(row)[0]])
    begun = two | {"complete": False, "values": {"rows": {"TIGER": one}}}
    path.write_text(json.dumps(begun))
    assert run("table9", "--seeds=1")["values"] == two["values"]


def test_a_finished_run_without_its_checkpoints_is_one_line(toy):
    folder = pathlib.Path("work/reproduce_toy/beauty/runs/bare")
    kept = folder.with_name("toy-rqvae_adamw-0") / "run.json"
    run("table1")
    folder.mkdir()
    (folder / "run.json").write_text(kept.read_text())
    with pytest.raises(artifacts.InputError, match=r"bare.*: no checkpoint yet"):
        saved_run.training_facts(folder, ("seed",))
    shutil.rmtree(folder)


def test_rows_of_recbole_outlive_their_lists_and_are_missed_until_there(toy, monkeypatch):
    whole = run("table1")
    path = pathlib.Path("work/reproduce_toy/results/table1_beauty_toy.json")
    assert whole["complete"]
    assert whole["values"]["missing"] == []
    hgn = whole["values"]["rows"].pop("HGN, trained by RecBole")
    path.write_text(json.dumps(whole | {"complete": False}))
    monkeypatch.setattr(recbole, "rows", lambda setting: {})
    part = run("table1")
    assert not part["complete"]
    assert part["values"]["missing"] == ["HGN, trained by RecBole"]
    page = path.with_name("results.md").read_text()
    assert "also want their ranked lists (docs/baselines.md): HGN, trained by RecBole" in page
    assert part["trained"] == whole["trained"] != {}
    # Who finds nothing new changes nothing, not even who found it.
    path.write_text(json.dumps(part | {"commit": "of before"}))
    assert run("table1") == part | {"commit": "of before"}
    monkeypatch.setattr(recbole, "rows", lambda setting: {"HGN": hgn})
    full = run("table1")
    assert full["complete"]
    assert full["values"]["rows"]["HGN, trained by RecBole"] == hgn


def test_recbole_is_missed_for_each_seed_and_seeds_come_together(toy, monkeypatch):
    """Seed 0 was scored elsewhere, seed 1 has lists here; of seed 2 there is nothing.

    Nor is there of a seed 0 that was trained for longer, the threads aside.
    """
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    rows = recbole.rows(setting)
    other = dict.fromkeys(SCORES, SCORE)
    found = {"without_history_items": other, "with_history_items": other}
    facts = {model: row["runs"][0] for model, row in rows.items()}

    def ones(**changes):
        return {
            model: scores.seed_row(
                {**found, "model": model, "options": {**facts[model]["options"], **changes}},
                1,
                ("model", "options"),
            )
            for model in rows
        }

    monkeypatch.setattr(recbole, "rows", lambda setting: ones(threads=9))
    recorded = {f"{name}, trained by RecBole": row for name, row in rows.items() if name != "S3Rec"}
    for seeds in ((0, 1), (0, 1, 2)):
        setting = Setting("beauty", BUDGETS["toy"], seeds, {"rows": recorded})
        joined = table1._by_recbole_rows(setting)
        hgn = joined["HGN, trained by RecBole"]
        assert hgn["seeds"] == [0, 1]
        both = (rows["HGN"]["scores"]["ndcg@5"]["value"] + SCORE["value"]) / 2
        assert hgn["scores"]["ndcg@5"]["value"] == pytest.approx(both)
        lacking = [*joined] if 2 in seeds else ["S3-Rec, trained by RecBole"]
        assert table1._missing(setting, joined) == lacking
    monkeypatch.setattr(recbole, "rows", lambda setting: ones(epochs=99))
    assert table1._by_recbole_rows(setting)["HGN, trained by RecBole"]["seeds"] == [1]


def test_what_goes_on_is_of_the_same_data_though_they_have_to_be_prepared(toy, monkeypatch, capsys):
    result = run("table8")
    path = cut_after_the_first_row(monkeypatch)
    cut = json.loads(path.read_text())
    path.write_text(json.dumps(cut | {"data": "others"}))
    folder = pathlib.Path("work/reproduce_toy/beauty")
    folder.rename("work/reproduce_toy/elsewhere")
    with pytest.raises(SystemExit):
        run("table8")
    assert "made from data others" in capsys.readouterr().err
    shutil.rmtree(folder)
    pathlib.Path("work/reproduce_toy/elsewhere").rename(folder)
    path.write_text(json.dumps(result))


def test_an_evaluation_with_another_beam_is_refused_and_one_of_another_step_made_again(toy):
    setting = Setting("beauty", BUDGETS["toy"], (0,))
    name = setting.train()
    found = setting.evaluate(name)
    path = setting.folder / "runs" / name / "eval" / "test" / "eval.json"
    path.write_text(json.dumps(found | {"num_beams": 30}))
    with pytest.raises(artifacts.InputError, match=r"of 30 beams, .*toy.gin has 20; remove"):
        setting.evaluate(name)
    # Of a checkpoint before the best one: as if somebody had looked while it was trained.
    path.write_text(json.dumps(found | {"step": 1, "num_users": 0}))
    again = setting.evaluate(name)
    assert (again["step"], again["num_users"]) == (found["step"], found["num_users"])
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "other"}, "made from data other"),
        ({"tables": {"rqvae_adamw": "x"}}, "IDs x"),
        ({"name": "table5"}, "table8_beauty_toy.json: made as table5_beauty_toy.json; remove it"),
        ({"budget": "cpu"}, "table8_beauty_toy.json: made as table8_beauty_cpu.json; remove it"),
    ],
)
def test_a_result_of_other_data_or_ids_is_refused_unless_kept(change, message, toy, capsys):
    result = run("table8")
    path = pathlib.Path("work/reproduce_toy/results/table8_beauty_toy.json")
    path.write_text(json.dumps(result | change))
    with pytest.raises(SystemExit):
        run("table8")
    assert message in capsys.readouterr().err
    assert run("table8", "--keep") == result | change
    # What is of another table stands nowhere on the page.
    page = (path.parent / "results.md").read_text()
    assert (f"[{path.name}](" in page) == (change.keys() <= {"data", "tables"})
    path.write_text(json.dumps(result))


def test_what_another_recipe_made_is_refused(toy, capsys):
    result = run("table8")
    folder = pathlib.Path("work/reproduce_toy/beauty")
    path = pathlib.Path("work/reproduce_toy/results/table8_beauty_toy.json")
    finished = folder / "runs" / "toy-rqvae_adamw-0" / "finished.json"
    recipe = json.loads(finished.read_text())
    path.unlink()
    finished.write_text(json.dumps(recipe | {"card": "older"}))
    with pytest.raises(SystemExit):
        run("table8")
    assert "was trained with card = older, now it is" in capsys.readouterr().err
    # So it is where the training was cut off.
    finished.unlink()
    begun = finished.with_name("begun.json")
    begun.write_text(json.dumps(recipe | {"card": "older"}))
    with pytest.raises(SystemExit):
        run("table8")
    assert "was trained with card = older, now it is" in capsys.readouterr().err
    begun.write_text(json.dumps(recipe))
    finished.write_text(json.dumps(recipe))

    table_path = folder / "ids" / "rqvae_adamw" / "semantic_ids.npz"
    table = SemanticIdTable.load(table_path)
    header = table.header | {"embeddings_checksum": "other"}
    dataclasses.replace(table, header=header).save(table_path)
    with pytest.raises(SystemExit):
        run("table8")
    assert "embeddings_checksum is other, but" in capsys.readouterr().err
    table.save(table_path)
    assert run("table8")["values"] == result["values"]
