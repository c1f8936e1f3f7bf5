"""The breaker: when nearly everything is rejected, the fault is not in the messages.

Stop before the queue is emptied into quarantine, and say what the messages were rejected for: they go back to the
queue, so the quarantine does not hold them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from coatcheck.errors import RefusedError
from coatcheck.pipeline.message import Reject

Reasons = Mapping[str, Mapping[str, int]]
"""How many messages were rejected, by reason, then by what the reject is about: a column, field or SQLSTATE, or ""."""

_SHOWN = 3


class BreakerOpenError(RefusedError):
    """The breaker has opened. `reasons` are the most frequent ones of the latest rejects, most frequent first."""

    def __init__(self, message: str, *, hint: str = "", reasons: Reasons | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons or {}


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

    def observe(self, reject: Reject | None) -> None:
        """Note what the stages made of one message: why it is rejected, or None if it is a row.

        Raises BreakerOpenError when the breaker opens.
        """
        self._stages.observe(reject)

    def passed(self, messages: int) -> None:
        """Note messages in a row that the stages let pass."""
        self._stages.passed(messages)

    def written(self, *, loaded: int, refused: Sequence[Reject]) -> None:
        """Note what the database made of the rows of one write; `refused` says why of each row it refused.

        Which row came after which is not known: the refused ones are taken to lie evenly among the others. Raises
        BreakerOpenError when the breaker opens.
        """
        if not refused and self._database.good:
            return  # the usual case, at no cost
        total, before = loaded + len(refused), 0
        for place in range(1, total + 1):
            now = place * len(refused) // total
            self._database.observe(refused[before] if now > before else None)
            before = now


class _Watch:
    def __init__(self, ratio: float, window: int, run: int) -> None:
        self._ratio_limit, self._run_limit = ratio, run
        self._latest: deque[Reject | None] = deque(maxlen=window)
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
                self.observe(None)
        else:
            self._latest.extend([None] * messages)

    def observe(self, reject: Reject | None) -> None:
        latest = self._latest
        if len(latest) == latest.maxlen:
            self._rejects -= latest[0] is not None
        latest.append(reject)
        if reject is None:
            self._run = 0
            return
        self._rejects += 1
        self._run += 1
        if self._run >= self._run_limit:
            raise _opened(f"{self._run} messages in a row were rejected", latest)
        if len(latest) == latest.maxlen and self._rejects >= self._ratio_limit * len(latest):
            raise _opened(f"{self._rejects} of the last {len(latest)} messages were rejected", latest)


def _opened(what: str, latest: Iterable[Reject | None]) -> BreakerOpenError:
    reasons = _reasons(latest)
    return BreakerOpenError(
        f"the breaker is open: {what}, most often for {', '.join(map(_listed, reasons, reasons.values()))}",
        hint="nothing of this batch was acked; its messages are back on the queue, and not in quarantine: correct "
        "[columns] or the producer and start again, or raise [breaker] to have them quarantined",
        reasons=reasons,
    )


def _reasons(latest: Iterable[Reject | None]) -> Reasons:
    """Return the most frequent reasons of the rejects, most frequent first, and so what each is about."""
    found: dict[str, Counter[str]] = {}
    for reject in latest:
        if reject is not None:
            found.setdefault(str(reject.reason), Counter())[reject.detail] += 1
    most = sorted(found.items(), key=lambda item: -item[1].total())[:_SHOWN]
    return {reason: dict(details.most_common()) for reason, details in most}


def _listed(reason: str, details: Mapping[str, int]) -> str:
    """Return "wrong_type 170 (app_version 150, locale 20)", or "not_json 30"."""
    shown = [f"{detail} {count}" for detail, count in details.items() if detail][:_SHOWN]
    return f"{reason} {sum(details.values())}" + (f" ({', '.join(shown)})" if shown else "")
