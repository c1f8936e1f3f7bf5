-- How many data keys are wrapped under a key.
SELECT count(*) FROM coatcheck.data_key WHERE kek = %(kek)s
