"""A TCP proxy on loopback that can go deaf, mute or away, to cut a connection at a chosen moment."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65_536


class TcpProxy:
    """Passes bytes on between its clients and `host:port`, in a thread of its own.

    `mute` swallows what the server says from now on (a commit happens, its answer is lost), `deafen` what the clients
    say (a statement never arrives). Both last until `cut`, which ends all connections; new ones are whole again.
    With `refusing` set, new ones are ended at once. `halve` lets half of the server's next words through, and ends the
    connection; `delay_s` holds everything back for so long; `aim` leads new connections elsewhere.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.refusing = False
        self.connections = 0
        self.swallowed = 0
        self.delay_s = 0.0
        self.halved = 0
        self._halving = False
        self._silent: set[str] = set()
        self._lock = threading.Lock()
        self._peers: dict[socket.socket, tuple[socket.socket, str]] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        for waited in (self._listener, self._woken):
            self._selector.register(waited, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()  # its other end becomes readable: the thread ends
        self._thread.join()
        self.cut()
        self._selector.close()
        self._listener.close()
        self._woken.close()

    def mute(self) -> None:
        """Swallow what the server says."""
        self._silent.add("server")

    def deafen(self) -> None:
        """Swallow what the clients say."""
        self._silent.add("client")

    def halve(self) -> None:
        """Let half of what the server says next through, then end that connection."""
        self._halving = True

    def aim(self, host: str, port: int) -> None:
        """Lead new connections to another server."""
        self._target = (host, port)

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            for one in list(self._peers):
                self._end(one)
            self._silent.clear()

    def _serve(self) -> None:
        while True:
            for ready, _ in self._selector.select():
                if ready.fileobj is self._woken:
                    return
                with self._lock:
                    if ready.fileobj is self._listener:
                        self._accept()
                    elif isinstance(ready.fileobj, socket.socket) and ready.fileobj in self._peers:
                        self._pass_on(ready.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.connections += 1
        server = None
        if not self.refusing:
            with suppress(OSError):
                server = socket.create_connection(self._target)
        if server is None:
            client.close()
            return
        self._peers[client] = (server, "client")
        self._peers[server] = (client, "server")
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, speaker: socket.socket) -> None:
        listener, side = self._peers[speaker]
        data = b""
        with suppress(OSError):
            data = speaker.recv(_CHUNK)
        if self.delay_s:
            time.sleep(self.delay_s)
        if not data:
            self._end(speaker)
        elif self._halving and side == "server":
            self._halving = False
            self.halved += 1
            with suppress(OSError):
                listener.sendall(data[: len(data) // 2])
            self._end(speaker)
        elif side in self._silent:
            self.swallowed += len(data)
        else:
            try:
                listener.sendall(data)
            except OSError:
                self._end(speaker)

    def _end(self, one: socket.socket) -> None:
        if one not in self._peers:
            return
        other, _ = self._peers[one]
        for each in (one, other):
            del self._peers[each]
            self._selector.unregister(each)
            each.close()
