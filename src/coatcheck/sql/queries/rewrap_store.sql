-- A data key wrapped anew; only if it is still wrapped as it was read.
UPDATE coatcheck.data_key SET kek = %(kek)s, wrapped = %(wrapped)s WHERE dek_id = %(dek_id)s AND kek = %(before)s
