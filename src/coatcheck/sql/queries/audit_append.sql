-- Append an entry to the audit trail.
SELECT coatcheck.audit_append(%(event)s, %(detail)s)
