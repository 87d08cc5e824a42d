"""Requests that come one by one, answered in batches by a recommender that may be replaced.

It knows nothing of how requests come in.
"""

import concurrent.futures
import dataclasses
import queue
import threading
import time
from collections.abc import Callable

from tiger_jax.artifacts import InputError
from tiger_jax.recommender import Recommender
from tiger_jax.requests import Answer


class OverloadError(RuntimeError):
    """More requests wait than are allowed to."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One request, in raw ids; as for `Recommender.recommend_raw`."""

    history: list[str]
    user: str | None = None
    exclude_history: bool = True
    filter: str | None = None
    temperature: float | tuple[float, ...] | None = None
    seed: int = 0

    @property
    def kind(self) -> tuple:
        """Questions of one kind are answered together."""
        return self.exclude_history, self.temperature


class Batcher:
    """Answers questions in batches, in a thread of its own.

    A batch begins with the question that waits longest and ends when it is full, or `max_wait_s`
    later: one that comes alone pays that much, and many at once share a search.

    Args:
      recommender: who answers. Set another one at any time: questions in flight are answered by
        the one before, later ones by the new one, none by neither.
      num_results: length of the answers.
      max_batch: most questions in a batch.
      max_wait_s: seconds that the first question of a batch waits for others.
      max_waiting: most questions that wait; more are refused.
      observe: called with the size of each batch and the seconds of its search.
    """

    def __init__(
        self,
        recommender: Recommender,
        num_results: int,
        max_batch: int = 64,
        max_wait_s: float = 0.004,
        max_waiting: int = 1024,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        self.recommender = recommender
        self._num_results = num_results
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._observe = observe
        self._waiting: queue.Queue = queue.Queue(max_waiting)
        # Nobody has to close what never served: a process that fails before that still ends.
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return self._waiting.qsize()

    def ask(self, question: Question) -> concurrent.futures.Future[Answer]:
        """The answer to come; InputError in it where the question is at fault.

        Raises:
          OverloadError: too many wait already.
        """
        future = concurrent.futures.Future()
        try:
            self._waiting.put_nowait((question, future))
        except queue.Full as error:
            raise OverloadError(
                f"{self.num_waiting} requests wait already; come back later"
            ) from error
        return future

    def close(self) -> None:
        """Answers all that wait, then ends."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            deadline = time.monotonic() + self._max_wait_s
            while batch[-1] is not None and len(batch) < self._max_batch:
                try:
                    batch.append(self._waiting.get(timeout=max(deadline - time.monotonic(), 0)))
                except queue.Empty:
                    break
            is_open = batch[-1] is not None
            kinds = {}
            for question, future in filter(None, batch):
                # A question whose asker has gone is not searched for.
                if future.set_running_or_notify_cancel():
                    kinds.setdefault(question.kind, []).append((question, future))
            for asked in kinds.values():
                self._answer(*zip(*asked, strict=True))

    def _answer(self, questions: tuple[Question], futures: tuple) -> None:
        started = time.perf_counter()
        first = questions[0]
        try:
            answers = self.recommender.recommend_raw(
                [question.user for question in questions],
                [question.history for question in questions],
                self._num_results,
                first.exclude_history,
                [question.filter for question in questions],
                first.temperature,
                [question.seed for question in questions],
            )
        except Exception as error:  # whatever it is, those who wait must hear of it
            if len(questions) > 1 and isinstance(error, InputError):
                # One is at fault; the others are not.
                for question, future in zip(questions, futures, strict=True):
                    self._answer((question,), (future,))
                return
            for future in futures:
                future.set_exception(error)
            return
        self._observe(len(questions), time.perf_counter() - started)
        for future, answer in zip(futures, answers, strict=True):
            future.set_result(answer)
