"""The web service and its batches, against the recommender that it serves."""

import asyncio
import concurrent.futures
import functools
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from tests.test_recommend import MAX_HISTORY, NUM_ITEMS, SIZES, folder, recommender  # noqa: F401
from tiger_jax import serve
from tiger_jax.artifacts import InputError
from tiger_jax.request_queue import Batcher, OverloadError, Question
from tiger_jax.requests import Answer
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.serve import Service, make_app

testclient = pytest.importorskip("fastapi.testclient", reason="wants the extra serve")


class Echo:
    """A recommender that repeats its histories and remembers its batches."""

    def __init__(self, name="a"):
        self.name, self.batches, self.gate = name, [], threading.Semaphore(0)

    def recommend_raw(self, users, histories, num_results, exclude_history, filters, *others):
        self.gate.acquire()
        if "bad" in filters:
            raise InputError("no filter 'bad'")
        self.batches.append(len(histories))
        return [Answer([self.name, *history], [], [], 9) for history in histories]


def test_waiting_questions_share_a_search_and_each_gets_its_own_answer():
    echo = Echo()
    batcher = Batcher(echo, 10, max_batch=4, max_wait_s=0.0)
    futures = [batcher.ask(Question([f"{number}"])) for number in range(10)]
    for _ in range(10):
        echo.gate.release()
    assert [future.result(10).item_ids for future in futures] == [
        ["a", f"{number}"] for number in range(10)
    ]
    batcher.close()
    # The first one or more may have been taken before the others came.
    assert sum(echo.batches) == 10
    assert max(echo.batches) == 4


def test_equal_draws_are_equal_whoever_shares_the_search():
    """What waits while a search is on is answered together, by one call."""
    calls = []

    class Counted:
        def recommend_raw(self, *arguments):
            calls.append(len(arguments[1]))
            return ours.recommend_raw(*arguments)

    ours = recommender(num_beams=8)
    ours.item_ids = ["", *(f"B{item}" for item in range(1, NUM_ITEMS + 1))]
    questions = [Question(["B4"], temperature=1.5, seed=seed) for seed in (3, 4, 3)]
    batcher = Batcher(Counted(), 5, max_wait_s=0.5)
    found = [batcher.ask(question) for question in questions]
    found = [future.result(60).item_ids for future in found]
    alone = [batcher.ask(question).result(60).item_ids for question in questions]
    batcher.close()
    assert calls == [3, 1, 1, 1]
    assert found == alone
    assert found[0] == found[2] != found[1]


def test_a_faulty_question_does_not_spoil_its_batch():
    echo = Echo()
    batcher = Batcher(echo, 10, max_wait_s=0.2)
    futures = [batcher.ask(Question(["x"], filter=name)) for name in (None, "bad", None)]
    for _ in range(4):
        echo.gate.release()
    with pytest.raises(InputError, match="no filter 'bad'"):
        futures[1].result(10)
    assert futures[0].result(10).item_ids == futures[2].result(10).item_ids == ["a", "x"]
    batcher.close()


def test_nothing_is_lost_over_a_swap_or_a_stop_and_too_many_are_refused():
    old, new = Echo("old"), Echo("new")
    batcher = Batcher(old, 10, max_batch=1, max_wait_s=0.0, max_waiting=3)
    first = batcher.ask(Question(["1"]))
    while batcher.num_waiting:
        pass
    later = [batcher.ask(Question([name])) for name in "234"]
    with pytest.raises(OverloadError, match="3 requests wait"):
        batcher.ask(Question(["5"]))
    batcher.recommender = new
    old.gate.release()
    for _ in range(3):
        new.gate.release()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert first.result(10).item_ids == ["old", "1"]
    assert [future.result(10).item_ids for future in later] == [["new", name] for name in "234"]
    closing.join(10)
    assert not closing.is_alive()


@pytest.fixture
def client(folder, tmp_path):  # noqa: F811
    (tmp_path / "filters.json").write_text('{"few": ["B1", "B2", "B9"]}')
    service = Service(
        str(folder), "tiger", str(tmp_path / "filters.json"), num_beams=8, batch_size=4
    )
    app = make_app(service, 8, 4, 0.005, max_bytes=5_000, max_items=50)
    with testclient.TestClient(app) as client:
        yield client


def post(client, **fields):
    return client.post("/recommend", json=fields)


def test_service_answers_as_the_recommender(client, folder):  # noqa: F811
    ours = recommender(num_beams=8)

    def expected(users, history, **options):
        ranked = ours.recommend(users, [history], 5, True, **options)
        return [f"B{item}" for item in ranked.item_numbers[0]], ranked.scores[0]

    cases = [
        ({"history": ["B3", "?", "B2"], "user": "ann"}, expected(["ann"], [3, 2])),
        ({"history": []}, expected(None, [])),
        (
            {"history": ["B4"], "temperature": 1.5, "seed": 3},
            expected(None, [4], temperature=1.5, seed=3),
        ),
    ]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(lambda case: post(client, num_results=5, **case[0]), cases))
    for response, (_, (item_ids, scores)) in zip(found, cases, strict=True):
        assert response.status_code == 200
        assert [item["item_id"] for item in response.json()["items"]] == item_ids
        np.testing.assert_allclose(
            [item["score"] for item in response.json()["items"]], scores, atol=1e-5
        )
    assert found[0].json()["unknown"] == ["?"]
    few = post(client, history=["B1"], filter="few").json()["items"]
    assert {item["item_id"] for item in few} == {"B2", "B9"}

    health = client.get("/health").json()
    assert (health["status"], health["num_items"]) == ("ok", NUM_ITEMS)
    metrics = client.get("/metrics").text
    assert 'requests_total{status="200"} 4.0' in metrics
    assert "waiting 0.0" in metrics


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"x" * 10_000_000, 413, "more than 5,000 bytes"),
        (b'{"history": [%s]}' % b",".join([b'"B1"'] * 51), 413, "51 items in the history"),
        (b"{", 422, "not JSON"),
        (b"[]", 422, 'give an object with a "history"'),
        (b'{"history": "B1"}', 422, "history is of the wrong type, str"),
        (b'{"history": [1]}', 422, "raw item ids, which are strings"),
        (b'{"history": [], "n": 3}', 422, "no field 'n'"),
        (b'{"history": [], "num_results": true}', 422, "num_results is of the wrong type, bool"),
        (b'{"history": [], "num_results": 9}', 422, "ask for 1 to 8"),
        (b'{"history": [], "filter": "cheap"}', 422, "no filter 'cheap'; choose one of: few"),
        (b'{"history": [], "temperature": -1}', 422, "give one number of at least 1e-06"),
        (b'{"history": [], "temperature": ["x"]}', 422, "temperature holds numbers"),
        (b'{"history": [], "seed": -1}', 422, "seed is out of range"),
        (b'{"history": ["\\ud800"]}', 422, "an item id that is no text"),
        (b'{"history": [], "temperature": 1%s}' % (b"0" * 400), 422, "give less than 1,000,000"),
        (b'{"history": [], "temperature": [NaN]}', 422, "give less than 1,000,000"),
        (b"[" * 4_900, 422, "not JSON"),
    ],
)
def test_faulty_requests_get_a_status_and_one_line(shared_client, content, status, line):
    response = shared_client.post("/recommend", content=content)
    assert response.status_code == status
    assert line in response.json()["error"]
    assert "\n" not in response.json()["error"]


@pytest.fixture(scope="module")
def shared_client():
    """Requests at fault leave no trace in a service."""

    class Stub:
        searcher = recommender(num_beams=8).with_filters({"few": np.ones(NUM_ITEMS + 1, bool)})
        recommender = searcher

    Stub.recommender.item_ids = [""] + [f"B{item}" for item in range(1, NUM_ITEMS + 1)]
    with testclient.TestClient(make_app(Stub, 8, 4, 0.0, max_bytes=5_000, max_items=50)) as client:
        yield client


def test_reload_refuses_a_table_that_has_not_grown(client, folder):  # noqa: F811
    path = folder / "ids" / "random" / "semantic_ids.npz"
    table = SemanticIdTable.load(path)
    SemanticIdTable.from_distinct_codes(table.semantic_ids_NI[:0:-1], SIZES, table.header).save(
        path
    )
    response = client.post("/reload")
    assert response.status_code == 409
    assert "not the table that" in response.json()["error"]
    table.save(path)
    assert client.post("/reload").json() == {"num_items": NUM_ITEMS}
    assert post(client, history=["B1"]).status_code == 200


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ('{"few": "B1"}', "every filter is a list of texts"),
        ('{"few": [1, 2]}', "every filter is a list of texts"),
        ("[]", "not a JSON object of lists"),
        ('{"few": ["b1"]}', "few has no item of the catalogue; give raw ids .* such as B1"),
    ],
)
def test_filters_that_leave_nothing_are_refused(filters, message, folder, tmp_path):  # noqa: F811
    path = tmp_path / "filters.json"
    path.write_text(filters)
    with pytest.raises(InputError, match=message):
        Service(str(folder), "tiger", str(path), num_beams=8, batch_size=4)


def test_a_process_that_never_served_ends():
    """Its batches wait in a thread for questions that will not come."""
    code = "from tiger_jax.request_queue import Batcher\nBatcher(None, 1, 1)\nraise SystemExit(2)"
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert done.returncode == 2


def test_an_address_that_is_taken_is_refused_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^host=127.0.0.1, port={port}: .*in use; give"):
            serve.serve(str(tmp_path), "no such run", port=port)


def test_searches_of_usual_requests_are_compiled_before_they_come(folder):  # noqa: F811
    filters = folder / "filters.json"
    filters.write_text('{"few": ["B1", "B2", "B9"]}')
    # A width that no other test has compiled.
    service = Service(str(folder), "tiger", str(filters), num_beams=7, batch_size=4)
    service.warm_up()
    compiled = []
    watch = functools.partial(_note, compiled)
    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        for count in (1, 2, 4):
            for length in range(1, MAX_HISTORY + 2):
                histories = [np.ones(length, np.int32)] * count
                for name in (None, "few"):
                    service.recommender.recommend([None] * count, histories, 5, True, name)
        assert not compiled
        # What is not usual is, which shows that the watch sees it.
        service.recommender.recommend([None], [np.ones(1, np.int32)], 5, True, temperature=1.5)
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)


def test_a_new_table_answers_once_its_searches_are_compiled(folder, monkeypatch):  # noqa: F811
    service = Service(str(folder), "tiger", num_beams=8, batch_size=4)
    calls = []
    monkeypatch.setattr(
        serve, "_compile", lambda *compiled: calls.append((compiled[1], service.recommender))
    )
    service.reload()
    assert not calls
    service.warm_up()
    before = service.recommender
    service.reload()
    assert service.recommender is not before
    assert calls == [(before, before), (service.recommender, before)]


def test_a_failing_search_is_one_line_and_counted():
    class Broken:
        searcher = recommender(num_beams=8)

        class recommender:  # noqa: N801
            @staticmethod
            def recommend_raw(*arguments):
                raise MemoryError("of the device")

    with testclient.TestClient(
        make_app(Broken, 8, 4, 0.0, max_bytes=5_000, max_items=50)
    ) as client:
        response = post(client, history=["B1"])
        assert response.status_code == 500
        assert response.json() == {"error": "the search failed: MemoryError"}
        assert 'requests_total{status="500"} 1.0' in client.get("/metrics").text


def test_who_goes_before_the_end_of_a_request_is_counted(shared_client):
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        del message

    scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": []}
    scope |= {"query_string": b"", "app": shared_client.app}
    asyncio.run(shared_client.app(scope, receive, send))
    assert 'requests_total{status="499"} 1.0' in shared_client.get("/metrics").text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_wait_ms": float("inf")}, "max_wait_ms is inf; give 0 to 60,000"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan; give 0 to 60,000"),
        ({"max_items": 0}, "max_items is 0; give 1 or more"),
    ],
)
def test_limits_that_no_request_can_keep_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        serve.serve("no such folder", "tiger", **flags)


def _note(compiled, event, duration, **others):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(duration)


def test_service_is_warm_before_it_listens(folder, monkeypatch):  # noqa: F811
    uvicorn = pytest.importorskip("uvicorn", reason="wants the extra serve")
    calls = []

    def listen(server, sockets):
        with testclient.TestClient(server.config.app) as client:
            calls.append(client.get("/health").status_code)

    monkeypatch.setattr(Service, "warm_up", lambda self: calls.append("warm_up"))
    monkeypatch.setattr(uvicorn.Server, "run", listen)
    serve.serve(str(folder), "tiger", port=0, num_beams=8)
    assert calls == ["warm_up", 200]
