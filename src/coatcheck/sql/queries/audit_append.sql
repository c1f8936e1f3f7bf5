-- Put an event of a job about keys on the audit trail.
SELECT coatcheck.key_event(%(event)s, %(detail)s)
