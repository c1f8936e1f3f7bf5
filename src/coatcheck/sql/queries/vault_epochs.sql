-- The epochs that have a partition of the vault.
SELECT substring(c.relname FROM '^vault_([0-9]{4,6})$')::integer AS epoch
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'coatcheck.vault'::regclass AND c.relname ~ '^vault_[0-9]{4,6}$'
ORDER BY epoch
