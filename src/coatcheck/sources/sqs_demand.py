"""How many receive requests are under way at once: the control rule, without a clock or a socket.

* A full receive (10 messages) says there is more: one further receiver, so that the number doubles per round trip.
* A receive that comes back nearly empty (4 or fewer) or failed says there is less: one receiver less.
* Never less than one, never more than `most`. An idle queue thus costs one long poll.

Why this rule, and how it behaves on a simulated queue: docs/decisions/0016-how-many-polls.md.
"""

from __future__ import annotations

FULL = 10
SPARSE = 4


class Demand:
    """The wanted number of receivers."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.receivers = 1

    def observe(self, received: int) -> None:
        """Take note of how many messages one receive brought."""
        if received >= FULL:
            self.receivers = min(self._most, self.receivers + 1)
        elif received <= SPARSE:
            self.receivers = max(1, self.receivers - 1)


class Budget:
    """What may be in flight, in messages and in body bytes.

    A receive reserves ten messages and ten times the largest body of late before it is sent, so that the bound holds
    for what is on its way too; the reservation is replaced by what has really come.
    """

    def __init__(self, *, messages: int, size: int) -> None:
        self._messages, self._size = messages, size
        self._largest = 4096
        self.messages = 0
        self.bytes = 0

    def reserve(self) -> int | None:
        """Reserve one receive; return the bytes reserved, or None for no room (one receive may always be under way)."""
        size = FULL * self._largest
        if self.messages and (self.messages + FULL > self._messages or self.bytes + size > self._size):
            return None
        self.messages += FULL
        self.bytes += size
        return size

    def settle(self, reserved: int, sizes: list[int]) -> None:
        """Replace a reservation by the body sizes that have come (none, if the receive failed)."""
        self.messages += len(sizes) - FULL
        self.bytes += sum(sizes) - reserved
        if sizes:
            self._largest = max(*sizes, self._largest * 7 // 8, 256)

    def free(self, messages: int, size: int) -> None:
        """Give back what has left the process."""
        self.messages -= messages
        self.bytes -= size
