-- Whether this user may have the vault's partitions made ahead. Asked first, as in may_prune.sql.
SELECT has_function_privilege('coatcheck.make_epochs(integer[])', 'EXECUTE')
