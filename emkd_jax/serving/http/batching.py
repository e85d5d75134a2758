"""Requests that arrive while the device is busy are computed together."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from emkd_jax.serving.http.scorer import Best, Query

_MOST_WAITING = 1024


class TooBusyError(Exception):
    """So many requests are waiting that another one would wait too long."""


class Batcher:
    """Computes queries in a thread of its own, several at a time where several are waiting.

    Nothing waits for a batch to fill: a query on an idle server is computed at once.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Query]], list[list[Best]]],
        most: Callable[[], int],
        measure: Callable[[int], object] = lambda size: None,
    ):
        """Starts the thread.

        Args:
          compute: answers queries.
          most: returns how many it may be given at a time.
          measure: called with the number of queries of every batch.
        """
        self._compute, self._most, self._measure = compute, most, measure
        self._waiting: queue.Queue[tuple[Query, Future[list[Best]]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, query: Query) -> 'Future[list[Best]]':
        """Returns what will hold the answer.

        Raises:
          TooBusyError: too many queries are waiting.
        """
        answer: Future[list[Best]] = Future()
        try:
            self._waiting.put_nowait((query, answer))
        except queue.Full as error:
            raise TooBusyError from error
        return answer

    def close(self) -> None:
        """Ends the thread after what is waiting."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self):
        while (first := self._waiting.get()) is not None:
            batch, last = [first], False
            while len(batch) < self._most() and not self._waiting.empty():
                more = self._waiting.get_nowait()
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._answer(batch)
            if last:
                return

    def _answer(self, batch):
        batch = [pair for pair in batch if pair[1].set_running_or_notify_cancel()]
        if not batch:  # all who asked have left
            return
        self._measure(len(batch))
        try:
            answers = self._compute([query for query, _ in batch])
        except Exception as error:  # the one who asked is told; the next batch is not harmed
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), found in zip(batch, answers, strict=True):
            answer.set_result(found)
