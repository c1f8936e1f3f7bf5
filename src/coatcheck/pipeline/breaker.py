"""The breaker: when nearly everything is rejected, the fault is not in the messages.

Stop before the queue is emptied into quarantine.
"""

from __future__ import annotations

from collections import deque

from coatcheck.errors import RefusedError


class Breaker:
    """Watches the share of rejects among the latest `window` messages, and the run of rejects without a good one.

    The stages and the database are watched apart: a row that the stages let pass is no good sign if the database then
    refuses it.
    """

    def __init__(self, *, ratio: float, window: int, run: int) -> None:
        self._stages = _Watch(ratio, window, run)
        self._database = _Watch(ratio, window, run)

    @property
    def rejected_ratio(self) -> float:
        """The share of rejects among the latest messages, of stages or database, whichever rejects more."""
        return max(self._stages.ratio, self._database.ratio)

    def observe(self, *, rejected: bool) -> None:
        """Take note of what the stages made of one message. Raises RefusedError when the breaker opens."""
        self._stages.observe(rejected=rejected)

    def passed(self, messages: int) -> None:
        """Take note of messages in a row that the stages let pass."""
        self._stages.passed(messages)

    def written(self, *, loaded: int, refused: int) -> None:
        """Take note of what the database made of the rows of one write. Raises RefusedError when the breaker opens.

        Which row came after which is not known: the refused ones are taken to lie evenly among the others.
        """
        if not refused and self._database.good:
            return  # the usual case, at no cost
        total, before = loaded + refused, 0
        for place in range(1, total + 1):
            now = place * refused // total
            self._database.observe(rejected=now > before)
            before = now


class _Watch:
    def __init__(self, ratio: float, window: int, run: int) -> None:
        self._ratio_limit, self._run_limit = ratio, run
        self._latest: deque[bool] = deque(maxlen=window)
        self._rejects = 0
        self._run = 0

    @property
    def good(self) -> bool:
        """Whether none of the latest was rejected."""
        return not self._rejects

    @property
    def ratio(self) -> float:
        """The share of rejects among the latest, as if those before the first had been good."""
        return self._rejects / (self._latest.maxlen or 1)

    def passed(self, messages: int) -> None:
        if self._rejects:
            for _ in range(messages):
                self.observe(rejected=False)
        else:
            self._latest.extend([False] * messages)

    def observe(self, *, rejected: bool) -> None:
        latest = self._latest
        if len(latest) == latest.maxlen:
            self._rejects -= latest[0]
        latest.append(rejected)
        if not rejected:
            self._run = 0
            return
        self._rejects += 1
        self._run += 1
        if self._run >= self._run_limit:
            raise self._open(f"{self._run} messages in a row were rejected")
        if len(latest) == latest.maxlen and self._rejects >= self._ratio_limit * len(latest):
            raise self._open(f"{self._rejects} of the last {len(latest)} messages were rejected")

    @staticmethod
    def _open(what: str) -> RefusedError:
        return RefusedError(
            f"the breaker is open: {what}",
            hint="nothing of this batch was acked; see the reasons with `coatcheck quarantine list`, "
            "mend [columns] or the producer, or widen [breaker]",
        )
