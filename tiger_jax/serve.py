"""The recommender as a web service: FastAPI and uvicorn, with batching, metrics and hot swap.

What is answered, `recommender.py` says; how requests share a search, `request_queue.py`.
"""

import asyncio
import contextlib
import json
import logging
import pathlib
import socket
import time

import numpy as np

from tiger_jax import command_line, saved_run
from tiger_jax import fusion as fusions
from tiger_jax.artifacts import InputError, require_at_least
from tiger_jax.data import records
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.fusion import FusedRecommender
from tiger_jax.recommender import Recommender
from tiger_jax.request_queue import Batcher, OverloadError, Question

_EXAMPLES = """
python -m tiger_jax.serve --folder=work/beauty --run=tiger
python -m tiger_jax.serve --folder=work/beauty --run=tiger --host=0.0.0.0 --port=80 --filters=filters.json
"""  # noqa: E501

_FIELDS = {
    "user": (str, type(None)),
    "history": (list,),
    "num_results": (int,),
    "exclude_history": (bool,),
    "filter": (str, type(None)),
    "temperature": (int, float, list, type(None)),
    "seed": (int,),
}


_LOG = logging.getLogger(__name__)

# Of a request whose asker has gone before it was read; nginx's number.
_GONE = 499
# No request has reason to draw at more.
_HOTTEST = 1_000_000
# Milliseconds that a request may wait for others.
_LONGEST_WAIT = 60_000


class _RefusalError(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


def serve(
    folder: str,
    run: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    num_beams: int = 30,
    batch_size: int = 64,
    max_wait_ms: float = 4.0,
    max_bytes: int = 1_000_000,
    max_items: int = 10_000,
    filters: str = "",
    fusion: str = "",
    step: int | None = None,
) -> dict:
    """Serves recommendations until it is told to stop, then answers what it has taken on.

    POST /recommend takes {"history": [raw item ids, oldest first], "user": raw id or null,
    "num_results": 10, "exclude_history": true, "filter": name or null, "temperature": number, one
    for each part of an ID, or null, "seed": 0}; all but the history may be left out. It gives
    {"items": [{"item_id", "score"}], "unknown": [ids that are no items], "num_items": of the
    catalogue that was searched}; a score is log p in nats, of a fusion only an order. POST /reload
    takes up the new version of the Semantic-ID table that make_ids --add has written; no request is
    lost. GET /health; GET /metrics (Prometheus).

    Args:
      folder: the prepared folder.
      run: name of the run in it.
      host: address to listen on; 127.0.0.1 for this machine alone.
      port: to listen on.
      num_beams: width of the search, and most results of a request.
      batch_size: most requests in one search.
      max_wait_ms: milliseconds that a request waits for others to share its search.
      max_bytes: largest request.
      max_items: longest history.
      filters: JSON file of named filters, {name: [raw ids of the items that it leaves in]}.
      fusion: name of a choice of tiger_jax.fuse: the run and its parts together, which know neither
        filters nor draws, nor items that join; choose and start again then. The run alone if empty.
      step: checkpoint of the run; the best one by validation if not given.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"port is {port}; give one from 0 to 65535")
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise InputError(f"{error}: pip install -e '.[serve]' in the checkout") from error
    if not 0 <= max_wait_ms <= _LONGEST_WAIT:
        raise InputError(f"max_wait_ms is {max_wait_ms}; give 0 to {_LONGEST_WAIT:,}")
    require_at_least(1, max_bytes=max_bytes, max_items=max_items)
    if fusion and filters:
        raise InputError(f"fusion={fusion}, filters={filters}: a fusion has no filters; drop one")
    options = {"num_beams": num_beams, "batch_size": batch_size}
    with _bound(host, port) as address:
        service = Service(folder, run, filters, step, fusion, **options)
        print(f"{run}: compiling the usual searches ...", flush=True)
        service.warm_up()
        app = make_app(service, num_beams, batch_size, max_wait_ms / 1e3, max_bytes, max_items)
        port = address.getsockname()[1]
        print(f"{run}, step {service.searcher.step}: http://{host}:{port}/health", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=30)
        uvicorn.Server(config).run(sockets=[address])
    return {"step": service.searcher.step}


def _bound(host: str, port: int) -> socket.socket:
    """A socket at that address, which answers nobody yet; InputError where there can be none."""
    address = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((host, port))
        return address
    except OSError as error:
        address.close()
        raise InputError(
            f"host={host}, port={port}: {error.strerror or error}; give another --port or --host"
        ) from error


class Service:
    """A recommender that is loaded from a folder, and again when its table has grown.

    Attributes:
      searcher: TIGER's.
      recommender: what answers: the same, or the fusion around it.
      checksum: of the searcher's table.
    """

    def __init__(
        self, folder: str, run: str, filters: str = "", step=None, fusion: str = "", **options
    ):
        self._folder, self._run, self._filters_file, self._fusion = folder, run, filters, fusion
        self._is_warm = False
        loaded = saved_run.load(folder, run, step)
        # Room for a quarter more items before anything is compiled again.
        capacity = loaded.table.num_items * 5 // 4
        self._take(self._with_filters(Recommender.of(loaded, capacity=capacity, **options)))

    def reload(self) -> None:
        """Takes up the table that lies in the folder now; InputError, and no change, if unfit."""
        new = saved_run.load(self._folder, self._run, self.searcher.step)
        self._take(self._with_filters(self.searcher.with_table(new.table, new.item_ids)))

    def warm_up(self) -> None:
        """Compiles the searches of usual requests, now and for each table taken up later."""
        self._is_warm = True
        _compile(self.searcher, self.recommender)

    def _take(self, searcher: Recommender) -> None:
        """Answers by this one from now on."""
        recommender = searcher
        if self._fusion:
            sequences = Sequences.load(pathlib.Path(self._folder, SEQUENCES))
            recommender = fusions.load(self._folder, self._run, self._fusion, searcher, sequences)
        if self._is_warm:
            _compile(searcher, recommender)
        self.searcher, self.recommender = searcher, recommender
        self.checksum = searcher.table.checksum()

    def _with_filters(self, recommender: Recommender) -> Recommender:
        if not self._filters_file:
            return recommender
        try:
            named = json.loads(pathlib.Path(self._filters_file).read_text(encoding="utf-8"))
            if not all(_is_list_of_texts(ids) for ids in named.values()):
                raise ValueError("every filter is a list of texts")
            named = {name: set(ids) for name, ids in named.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self._filters_file}: not a JSON object of lists of raw ids ({error})"
            ) from error
        known = set(recommender.item_ids[1:])
        for name, ids in named.items():
            if not ids & known:
                raise InputError(
                    f"{self._filters_file}: {name} has no item of the catalogue; give raw ids as "
                    f"they are in items.jsonl, such as {recommender.item_ids[1]}"
                )
        return recommender.with_filters(
            {
                name: np.array([raw_id in ids for raw_id in recommender.item_ids])
                for name, ids in named.items()
            }
        )


def _compile(searcher: Recommender, recommender: Recommender | FusedRecommender) -> None:
    """Asks what is usual: few users and many, short histories and long ones, a filter or none."""
    for count in (1, 8, searcher.batch_size):
        for length in sorted({-(-searcher.max_history // part) for part in (1, 2, 4)}):
            histories = [np.ones(length, np.int32)] * count
            for name in (None, *searcher.filter_names[:1]):
                recommender.recommend([None] * count, histories, searcher.num_beams, filter=name)


def _is_list_of_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def make_app(
    service: Service,
    num_results: int,
    batch_size: int,
    max_wait_s: float,
    max_bytes: int,
    max_items: int,
):
    """The web application; see `serve`."""
    import fastapi
    import prometheus_client as prometheus
    from fastapi import responses
    from starlette.requests import ClientDisconnect

    registry = prometheus.CollectorRegistry()
    total = prometheus.Counter("requests", "By status.", ["status"], registry=registry)
    latency = prometheus.Histogram("request_seconds", "From body to answer.", registry=registry)
    batches = prometheus.Histogram(
        "batch_size", "Requests in a search.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
    )
    search = prometheus.Histogram("search_seconds", "Of a batch.", registry=registry)
    swaps = prometheus.Counter("table_swaps", "New tables taken up.", registry=registry)

    def observe(size, seconds):
        batches.observe(size)
        search.observe(seconds)

    batcher = Batcher(
        service.recommender, num_results, batch_size, max_wait_s, max_waiting=1024, observe=observe
    )
    waiting = prometheus.Gauge("waiting", "Requests in no batch yet.", registry=registry)
    waiting.set_function(lambda: batcher.num_waiting)
    num_items = prometheus.Gauge("num_items", "Of the catalogue.", registry=registry)
    num_items.set_function(lambda: service.searcher.table.num_items)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        try:
            yield
        finally:
            await asyncio.to_thread(batcher.close)

    app = fastapi.FastAPI(title="tiger_jax", lifespan=lifespan)
    swapping = asyncio.Lock()

    @app.post("/recommend")
    async def recommend(request: fastapi.Request):
        started = time.perf_counter()
        status, content = 200, None
        try:
            body = await _body(request, max_bytes)
            question, count = _question(body, num_results, max_items)
            answer = await asyncio.wrap_future(batcher.ask(question))
            pairs = zip(answer.item_ids[:count], answer.scores, strict=False)
            content = {
                "items": [{"item_id": item_id, "score": score} for item_id, score in pairs],
                "unknown": answer.unknown,
                "num_items": answer.num_items,
            }
        except _RefusalError as refusal:
            status, content = refusal.status, {"error": str(refusal)}
        except InputError as error:
            status, content = 422, {"error": str(error)}
        except OverloadError as error:
            status, content = 503, {"error": str(error)}
        except ClientDisconnect:
            status = _GONE
        except Exception as error:  # whatever it is, it is counted
            _LOG.exception("a request failed")
            status, content = 500, {"error": f"the search failed: {type(error).__name__}"}
        total.labels(status).inc()
        latency.observe(time.perf_counter() - started)
        return responses.JSONResponse(content, status)

    @app.post("/reload")
    async def reload():
        async with swapping:
            try:
                await asyncio.to_thread(service.reload)
            except InputError as error:
                return responses.JSONResponse({"error": str(error)}, 409)
            batcher.recommender = service.recommender
        swaps.inc()
        return {"num_items": service.searcher.table.num_items}

    @app.get("/health")
    async def health():
        searcher = service.searcher
        return {
            "status": "ok",
            "step": searcher.step,
            "num_items": searcher.table.num_items,
            "table": service.checksum,
        }

    @app.get("/metrics")
    async def metrics():
        return responses.PlainTextResponse(
            prometheus.generate_latest(registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    return app


async def _body(request, max_bytes: int) -> bytes:
    """The request's body, of which no more is read than is allowed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _RefusalError(
                413, f"the request has more than {max_bytes:,} bytes; send fewer items"
            )
    return bytes(body)


def _question(body: bytes, most_results: int, max_items: int) -> tuple[Question, int]:
    """What a request asks, and how many results it wants."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusalError(422, f"the request is not JSON: {error}") from error
    if not isinstance(fields, dict) or "history" not in fields:
        raise _RefusalError(422, 'give an object with a "history"')
    for name, value in fields.items():
        kinds = _FIELDS.get(name)
        if kinds is None:
            raise _RefusalError(422, f"no field {name!r}; there are {', '.join(_FIELDS)}")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _RefusalError(422, f"{name} is of the wrong type, {type(value).__name__}")
    history = fields["history"]
    if len(history) > max_items:
        raise _RefusalError(413, f"{len(history):,} items in the history; at most {max_items:,}")
    if not all(isinstance(item, str) for item in history):
        raise _RefusalError(422, "a history holds raw item ids, which are strings")
    # JSON can escape halves of characters, which no text can hold.
    if not all(map(records.is_utf8, history)):
        raise _RefusalError(422, "a history holds an item id that is no text")
    count = fields.pop("num_results", min(10, most_results))
    if not 1 <= count <= most_results:
        raise _RefusalError(422, f"num_results is {count}; ask for 1 to {most_results}")
    temperature = fields.get("temperature")
    if isinstance(temperature, list):
        if not all(isinstance(value, int | float) for value in temperature):
            raise _RefusalError(422, "temperature holds numbers and nothing else")
        fields["temperature"] = tuple(temperature)
    values = temperature if isinstance(temperature, list) else [temperature or 0]
    if not all(abs(value) < _HOTTEST for value in values):
        raise _RefusalError(422, f"temperature is {temperature}; give less than {_HOTTEST:,}")
    if not 0 <= fields.get("seed", 0) < 2**31:
        raise _RefusalError(422, "seed is out of range; give 0 to 2147483647")
    return Question(**fields), count


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(serve, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.serve import main

    main()
