-- The epochs of originals whose partition nobody has made: where make_epochs was not called, or loaders came too late.
SELECT DISTINCT epoch FROM coatcheck.vault_other
