-- A held message's row, loaded once: whoever turns 'held' into 'loaded' inserts the row, in one statement. A message that
-- was held under another key than its row has (it had none then) goes through the ledger as if it had just arrived: what
-- is known there already adds nothing.
WITH ended AS MATERIALIZED (
    SELECT quarantine_id FROM coatcheck.retry_loaded(%(request)s, %(quarantine_id)s) AS quarantine_id
    WHERE quarantine_id IS NOT NULL
), claimed AS (
    INSERT INTO coatcheck.ledger (message_key, slot)
    SELECT %(key)s::uuid, %(slot)s::int4 FROM ended WHERE NOT %(known)s::boolean
    ON CONFLICT DO NOTHING
    RETURNING message_key
), released AS MATERIALIZED (
    SELECT quarantine_id FROM ended WHERE %(known)s::boolean OR EXISTS (SELECT FROM claimed)
), data_keys AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT batch.* FROM unnest(%(dek_ids)s::uuid[], %(keks)s::text[], %(wrapped)s::bytea[]) AS batch, released
    ON CONFLICT DO NOTHING
), vaulted AS (
    INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
    SELECT batch.* FROM unnest(%(tokens)s::text[], %(epochs)s::int4[], %(vault_deks)s::uuid[], %(vault_nonces)s::bytea[],
                               %(vault_ciphertexts)s::bytea[]) AS batch, released
    ON CONFLICT DO NOTHING
), aliased AS (
    INSERT INTO coatcheck.alias (old_token, new_token)
    SELECT batch.* FROM unnest(%(old_tokens)s::text[], %(new_tokens)s::text[]) AS batch (old_token, new_token), released
    WHERE NOT EXISTS (SELECT FROM coatcheck.token_key
                      WHERE kid = split_part(old_token, '_', 3) AND state = 'retired')
    ON CONFLICT DO NOTHING
), loaded AS (
    INSERT INTO {target} ({columns})
    SELECT {fields}
    FROM unnest({arrays}) AS batch ({names}), released, coatcheck.using_key(%(kid)s)
    RETURNING 1
), tally AS MATERIALIZED (
    SELECT (SELECT count(*) FROM released)::int AS released, (SELECT count(*) FROM loaded)::int AS loaded
)
SELECT released, loaded,
       CASE WHEN loaded = released THEN 0
            WHEN %(accept)s::bool THEN released - loaded
            ELSE ('coatcheck: suppressed ' || (released - loaded))::int END AS suppressed
FROM tally
