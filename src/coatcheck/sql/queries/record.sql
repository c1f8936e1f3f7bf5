-- Put an event on the audit trail; for the owner of coatcheck's schema, who alone may.
SELECT coatcheck.record(%(event)s, %(detail)s::jsonb)
