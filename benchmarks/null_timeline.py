"""What happened at the null SQS server, tenth of a second by tenth of a second."""

from __future__ import annotations

import time

BIN_S = 0.1


class Timeline:
    """Requests, messages handed out, and the most receives under way at once, by tenth of a second since the start."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._requests, self._received, self._polls = [0], [0], [0]
        self._under_way = 0

    def request(self) -> None:
        """Take note of a request."""
        self._requests[self._place()] += 1

    def received(self, count: int) -> None:
        """Take note of messages handed out."""
        self._received[self._place()] += count

    def poll_begins(self) -> None:
        """Take note of a receive."""
        place = self._place()
        self._under_way += 1
        self._polls[place] = max(self._polls[place], self._under_way)

    def poll_ends(self) -> None:
        """Take note that a receive is answered, or that nobody waits for it any longer."""
        self._place()
        self._under_way -= 1

    def told(self) -> dict[str, object]:
        """Return everything up to now."""
        self._place()
        return {"bin_s": BIN_S, "requests": self._requests, "received": self._received, "polls": self._polls}

    def _place(self) -> int:
        """Return the place of now, having filled up what lies before: the receives under way stay under way."""
        place = int((time.perf_counter() - self._began) / BIN_S)
        missing = place + 1 - len(self._requests)
        if missing > 0:
            self._requests += [0] * missing
            self._received += [0] * missing
            self._polls += [self._under_way] * missing
        return place
