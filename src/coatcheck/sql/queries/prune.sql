-- Have the ledger forget what it may, if this user may call for it.
SELECT CASE WHEN has_function_privilege('coatcheck.prune(integer)', 'EXECUTE') THEN coatcheck.prune() END
