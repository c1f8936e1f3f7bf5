"""How long SQS has been away for one kind of request, and when to give up."""

from __future__ import annotations

from collections.abc import Callable

from coatcheck.errors import UnreachableError
from coatcheck.sources.sqs_client import SqsError


class Outage:
    """The time since the first failure that no success has followed. `give_up_s` bounds it (0: for ever).

    Each kind of request has its own: that receives are answered says nothing of acks.
    """

    def __init__(self, give_up_s: float, clock: Callable[[], float]) -> None:
        self._give_up_s, self._clock = give_up_s, clock
        self._since: float | None = None

    @property
    def away(self) -> bool:
        """Whether the latest requests of this kind failed."""
        return self._since is not None

    def over(self) -> float:
        """Note an answer; return how many seconds there was none before it, 0 if there was no outage."""
        seconds = 0.0 if self._since is None else self._clock() - self._since
        self._since = None
        return seconds

    def note(self, error: SqsError) -> None:
        """Take note of a failure. Raises it if no retry mends it, and UnreachableError when patience has an end."""
        if not error.retryable:
            raise error
        now = self._clock()
        if self._since is None:
            self._since = now
        if self._give_up_s and now - self._since > self._give_up_s:
            raise UnreachableError(
                f"SQS has not answered for {self._give_up_s:g} s (last: {error.operation}, {error.code})",
                hint="nothing is lost: unacked messages come back; is the endpoint right and up?",
            )
