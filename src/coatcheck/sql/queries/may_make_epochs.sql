-- Whether this user may have the vault's partitions made ahead. Asked first, as in may_prune.sql.
SELECT pg_catalog.has_function_privilege('coatcheck.make_epochs(integer[])', 'EXECUTE')
