"""What every server of the tests is built on: a port of loopback, a thread per connection, an end with its block."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self


class LoopbackServer:
    """Accepts connections at a free port of 127.0.0.1 for the length of a ``with`` block.

    Subclasses say in :meth:`converse` what is done with one. That the client hangs up is its right; any other error of
    theirs is raised at the end of the block, so that a test does not pass over a broken server.

    :param tls_context: speak TLS with it.
    """

    def __init__(self, *, tls_context: ssl.SSLContext | None = None) -> None:
        self.tls_context = tls_context
        self.connections = 0
        """TCP connections accepted so far."""
        self.stopping = threading.Event()
        """Set when the server stops; endless answers look at it."""
        self._errors: list[Exception] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = _listener(port=0)
        self.port = int(self._listener.getsockname()[1])

    @property
    def host(self) -> str:
        """``127.0.0.1:port``, as the settings list it."""
        return f"127.0.0.1:{self.port}"

    @property
    def scheme(self) -> str:
        return "http" if self.tls_context is None else "https"

    def converse(self, connection: socket.socket) -> None:
        """Serve one connection, which is closed afterwards."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Close the port, break every connection off and wait for their threads."""
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._accepting.join(5)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(
                    connection, socket.SHUT_RDWR
                )  # that of TLS would pull its state from under a read
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()

    def restart(self, *, pause_seconds: float) -> None:
        """Break every connection off, and serve again at the same port after a pause."""
        self.stop()
        time.sleep(pause_seconds)
        self._listener = _listener(self.port)
        self.stopping = threading.Event()
        self._start()

    def _start(self) -> None:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls_context is not None:
                self._open.discard(connection)
                connection = self.tls_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                self._open.add(connection)
                connection.do_handshake()
            self.converse(connection)
        except OSError:
            return  # the client hung up, or the test is over
        except Exception as error:
            self._errors.append(error)
        finally:
            self._open.discard(connection)
            connection.close()


def _listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=64)
