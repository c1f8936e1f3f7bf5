-- Whether this user may have the ledger pruned. Asked first: the right is checked even where a CASE forbids the call.
SELECT pg_catalog.has_function_privilege('coatcheck.prune(integer)', 'EXECUTE')
