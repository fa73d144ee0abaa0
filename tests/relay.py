"""A port of this machine that leads to another one, until it is cut."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Of connections to 127.0.0.1, at `port`."""

    def __init__(self, target: int, cut_after: int | None = None) -> None:
        """cut_after: bytes to the target after which a connection breaks, all together."""
        self._target, self._ends = target, list[socket.socket]()
        self._left = cut_after
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections; new ones are welcome."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                threading.Thread(target=self._pour, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pour, args=(far, near, False), daemon=True).start()

    def _pour(self, source: socket.socket, target: socket.socket, forth: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if forth and self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        self.cut()
                        return
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
