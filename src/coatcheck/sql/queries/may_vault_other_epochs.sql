-- Whether this user may see which epochs are in the vault's default partition. Asked first, as in may_prune.sql.
SELECT has_table_privilege('coatcheck.vault_other', 'SELECT')
