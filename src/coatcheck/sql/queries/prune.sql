-- Have the ledger forget what it may.
SELECT coatcheck.prune()
