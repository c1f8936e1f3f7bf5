-- What tells this database from others that share its keyring.
SELECT database_id FROM coatcheck.database
