-- Whether this user may ask for counts. Asked first, as in may_prune.sql.
SELECT has_function_privilege('coatcheck.figures(text)', 'EXECUTE')
