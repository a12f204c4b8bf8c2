"""The thread that writes: one piece of work after the other, and in the middle of a long one those that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Leaving(Exception):
    """The worker has been told to end: a long piece of work must not go on."""


class Worker(Executor):
    """One thread, and the work that waits for it."""

    def __init__(self, name: str) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._guard = threading.Lock()  # of the next two, and what they say of the queue
        self._has_begun = False
        self._is_leaving = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have something done when its turn comes.

        Raises:
            RuntimeError: the worker was shut down.
        """
        future: Future[T] = Future()

        def turn() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # whoever asked for it is told
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._guard:
            if self._is_leaving:
                raise RuntimeError("the worker was shut down")
            self._waiting.put(turn)
            if not self._has_begun:
                self._has_begun = True
                self._thread.start()
        return future

    def do_what_waits(self) -> None:
        """Do what waits by now. To be called by a long piece of work, in the worker's own thread, again and again.

        Raises:
            Leaving: the long piece of work must end.
        """
        assert threading.current_thread() is self._thread
        for _ in range(self._waiting.qsize()):
            turn = self._waiting.get()
            if turn is None:
                self._waiting.put(None)  # it is the last one, and stays so
                raise Leaving
            turn()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; what waits is still done."""
        del cancel_futures
        with self._guard:
            if not self._is_leaving:
                self._is_leaving = True
                self._waiting.put(None)
            has_begun = self._has_begun
        if wait and has_begun:
            self._thread.join()

    def _work(self) -> None:
        while (turn := self._waiting.get()) is not None:
            turn()
