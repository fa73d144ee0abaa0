"""An iterator that runs in a thread of its own, so that its first item is on the way before it is asked for."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

_STALLED_S = 300.0


class Ahead(Generic[Item]):
    """Iterates over `items` one item ahead; what they raise is raised here. Raises RuntimeError where none comes."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        try:
            kind, value = self._queue.get(timeout=_STALLED_S)
        except queue.Empty:
            raise RuntimeError(f"no data for {_STALLED_S:.0f} s: the reading tasks get no CPU, or hang") from None
        if kind == "item":
            return value  # type: ignore[return-value]
        self._put(kind, value)  # whoever asks again gets the same answer
        if isinstance(value, BaseException):
            raise value
        raise StopIteration

    def stop(self) -> None:
        """Lets the thread end; does not wait for it."""
        self._stopped.set()

    def _run(self) -> None:
        end: tuple[str, BaseException | None] = ("end", None)
        try:
            for item in self._items:
                if not self._put("item", item):
                    break
        except BaseException as error:
            end = ("error", error)
        finally:
            close = getattr(self._items, "close", None)
            if close:
                close()
        self._put(*end)

    def _put(self, kind: str, value: Item | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put((kind, value), timeout=0.5)
                return True
            except queue.Full:
                pass
        return False
