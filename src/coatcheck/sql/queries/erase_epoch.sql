-- Erase the originals of an epoch.
SELECT entries, data_keys, young, keks FROM coatcheck.erase_epoch(%(erasure)s::bigint, %(epoch)s::integer)
