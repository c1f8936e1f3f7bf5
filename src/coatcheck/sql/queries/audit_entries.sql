-- The audit trail from an entry on, in its order.
SELECT seq, at_us, actor, event, detail, hash FROM coatcheck.audit WHERE seq >= %(first)s ORDER BY seq
