-- A page of entries under the active key, and the aliases of their tokens. The parts are those of write_batch.sql in the
-- same order, which is the order in which they take their locks: the job and the loaders wait instead of deadlocking.
WITH data_keys AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT * FROM unnest(%(dek_ids)s::uuid[], %(keks)s::text[], %(wrapped)s::bytea[])
    ON CONFLICT DO NOTHING
), vaulted AS (
    INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
    SELECT * FROM unnest(%(tokens)s::text[], %(epochs)s::int4[], %(vault_deks)s::uuid[], %(nonces)s::bytea[],
                         %(ciphertexts)s::bytea[])
    ON CONFLICT DO NOTHING
), aliased AS (
    INSERT INTO coatcheck.alias (old_token, new_token)
    SELECT * FROM unnest(%(old_tokens)s::text[], %(new_tokens)s::text[])
    ON CONFLICT DO NOTHING
)
SELECT
