-- Make the vault's partitions of these epochs, where there are none yet.
SELECT coatcheck.make_epochs(%(epochs)s::pg_catalog.int4[])
