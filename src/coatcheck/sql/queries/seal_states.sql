-- The keys that wrap data keys, as this database knows them.
SELECT kek, state = 'retired' FROM coatcheck.seal_key ORDER BY changed_at, kek
