-- Data keys that are wrapped under another key than the present one, in order.
SELECT dek_id, kek, wrapped FROM coatcheck.data_key
WHERE kek <> %(kek)s AND dek_id > %(after)s
ORDER BY dek_id
LIMIT %(limit)s
