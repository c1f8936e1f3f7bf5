-- How many messages the quarantine holds, which nobody can search.
SELECT count(*) FROM coatcheck.quarantine WHERE state = 'held'
