-- A held message's row, loaded once: whoever turns 'held' into 'loaded' inserts the row, in one statement. A message that
-- was held under another key than its row has (it had none then) goes through the ledger as if it had just arrived: what
-- is known there already adds nothing. The search_path is the login's: everything is qualified, as in write_batch.sql.
WITH ended AS MATERIALIZED (
    SELECT quarantine_id FROM coatcheck.retry_loaded(%(request)s, %(quarantine_id)s) AS quarantine_id
    WHERE quarantine_id IS NOT NULL
), claimed AS (
    INSERT INTO coatcheck.ledger (message_key, slot)
    SELECT %(key)s::pg_catalog.uuid, %(slot)s::pg_catalog.int4 FROM ended WHERE NOT %(known)s::boolean
    ON CONFLICT DO NOTHING
    RETURNING message_key
), released AS MATERIALIZED (
    SELECT quarantine_id FROM ended WHERE %(known)s::boolean OR EXISTS (SELECT FROM claimed)
), data_keys AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT batch.* FROM unnest(%(dek_ids)s::pg_catalog.uuid[], %(keks)s::pg_catalog.text[],
                               %(wrapped)s::pg_catalog.bytea[]) AS batch, released
    ON CONFLICT DO NOTHING
), vaulted AS (
    INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
    SELECT batch.* FROM unnest(%(tokens)s::pg_catalog.text[], %(epochs)s::pg_catalog.int4[],
                               %(vault_deks)s::pg_catalog.uuid[], %(vault_nonces)s::pg_catalog.bytea[],
                               %(vault_ciphertexts)s::pg_catalog.bytea[]) AS batch, released
    ON CONFLICT DO NOTHING
), aliased AS (
    INSERT INTO coatcheck.alias (old_token, new_token)
    SELECT batch.* FROM unnest(%(old_tokens)s::pg_catalog.text[], %(new_tokens)s::pg_catalog.text[])
                        AS batch (old_token, new_token), released
    WHERE NOT EXISTS (SELECT FROM coatcheck.token_key
                      WHERE kid OPERATOR(pg_catalog.=) pg_catalog.split_part(old_token, '_', 3)
                        AND state OPERATOR(pg_catalog.=) 'retired')
    ON CONFLICT DO NOTHING
), loaded AS (
    INSERT INTO {target} ({columns})
    SELECT {fields}
    FROM ROWS FROM ({arrays}) AS batch ({names}), released, coatcheck.using_key(%(kid)s)
    RETURNING 1
), tally AS MATERIALIZED (
    SELECT (SELECT pg_catalog.count(*) FROM released)::int AS released,
           (SELECT pg_catalog.count(*) FROM loaded)::int AS loaded
)
SELECT released, loaded,
       CASE WHEN loaded OPERATOR(pg_catalog.=) released THEN 0
            WHEN %(accept)s::boolean THEN released OPERATOR(pg_catalog.-) loaded
            ELSE ('coatcheck: suppressed ' OPERATOR(pg_catalog.||) (released OPERATOR(pg_catalog.-) loaded))::int
       END AS suppressed
FROM tally
