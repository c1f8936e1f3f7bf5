-- One batch, one statement, one transaction. The ledger decides which messages are new; rows and rejects follow it. The
-- vault's entries do not ask the ledger: they are of rows that are here now, or have been since an earlier transaction.
-- Parameters are arrays, one element a message, sorted by slot and key (two workers that meet the same keys meet in the same
-- order, so they wait instead of deadlocking). The transaction waits for the disk even where the session has
-- synchronous_commit = off, which behind a pooler is not ours to set: the statement sets it for this transaction.
-- The search_path is the login's, for triggers of the target: every name and operator here is qualified, but for unnest of
-- several arrays, which the parser itself takes from pg_catalog.
-- {target}, {columns}, {arrays}, {names} and {fields} are composed once.
WITH fresh AS (
    INSERT INTO coatcheck.ledger (message_key, slot)
    SELECT message_key, slot FROM unnest(%(keys)s::pg_catalog.uuid[], %(slots)s::pg_catalog.int4[]) AS batch (message_key, slot)
    ON CONFLICT DO NOTHING
    RETURNING message_key
), loaded AS (
    INSERT INTO {target} ({columns})
    SELECT {fields}
    FROM ROWS FROM (pg_catalog.unnest(%(row_keys)s::pg_catalog.uuid[]), {arrays}) WITH ORDINALITY
         AS batch (message_key, {names}, place)
    JOIN fresh ON fresh.message_key OPERATOR(pg_catalog.=) batch.message_key
    ORDER BY place
    RETURNING 1
), data_keys AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT * FROM unnest(%(dek_ids)s::pg_catalog.uuid[], %(keks)s::pg_catalog.text[], %(wrapped)s::pg_catalog.bytea[])
    ON CONFLICT DO NOTHING
), vaulted AS (
    INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
    SELECT * FROM unnest(%(tokens)s::pg_catalog.text[], %(epochs)s::pg_catalog.int4[], %(vault_deks)s::pg_catalog.uuid[],
                         %(vault_nonces)s::pg_catalog.bytea[], %(vault_ciphertexts)s::pg_catalog.bytea[])
    ON CONFLICT DO NOTHING
), aliased AS (
    INSERT INTO coatcheck.alias (old_token, new_token)
    SELECT * FROM unnest(%(old_tokens)s::pg_catalog.text[], %(new_tokens)s::pg_catalog.text[])
                  AS batch (old_token, new_token)
    WHERE NOT EXISTS (SELECT FROM coatcheck.token_key
                      WHERE kid OPERATOR(pg_catalog.=) pg_catalog.split_part(old_token, '_', 3)
                        AND state OPERATOR(pg_catalog.=) 'retired')
    ON CONFLICT DO NOTHING
), quarantined AS (
    INSERT INTO coatcheck.quarantine
        (pipeline, message_key, message_id, origin, reason, detail, sent_at, received_at, dek_id, nonce, ciphertext)
    SELECT %(pipeline)s, batch.message_key, message_id, origin, reason, detail,
           pg_catalog.to_timestamp(sent_ms OPERATOR(pg_catalog./) 1000.0),
           pg_catalog.to_timestamp(received_ms OPERATOR(pg_catalog./) 1000.0), dek_id, nonce, ciphertext
    FROM unnest(%(reject_keys)s::pg_catalog.uuid[], %(message_ids)s::pg_catalog.text[], %(origins)s::pg_catalog.text[],
                %(reasons)s::pg_catalog.text[], %(details)s::pg_catalog.text[], %(sent_ms)s::pg_catalog.int8[],
                %(received_ms)s::pg_catalog.int8[], %(body_deks)s::pg_catalog.uuid[], %(nonces)s::pg_catalog.bytea[],
                %(ciphertexts)s::pg_catalog.bytea[]) WITH ORDINALITY
         AS batch (message_key, message_id, origin, reason, detail, sent_ms, received_ms, dek_id, nonce, ciphertext,
                   place)
    JOIN fresh ON fresh.message_key OPERATOR(pg_catalog.=) batch.message_key
    ORDER BY place
    RETURNING 1
), tally AS MATERIALIZED (
    SELECT (SELECT pg_catalog.count(*) FROM fresh)::int AS fresh, (SELECT pg_catalog.count(*) FROM loaded)::int AS loaded,
           (SELECT pg_catalog.count(*) FROM quarantined)::int AS quarantined
), counted AS (
    -- What is fresh is loaded or quarantined, or a trigger or rule of the table kept it out. Unless that is accepted (for
    -- rows, never for rejects), the cast fails, with a text of ours, and the transaction with it.
    SELECT loaded, quarantined, %(messages)s::int OPERATOR(pg_catalog.-) fresh AS duplicates,
           CASE WHEN missing OPERATOR(pg_catalog.=) 0 THEN 0
                WHEN %(accept)s::boolean
                     AND quarantined OPERATOR(pg_catalog.=) (
                         SELECT pg_catalog.count(*) FROM fresh
                         WHERE message_key OPERATOR(pg_catalog.=) ANY (%(reject_keys)s::pg_catalog.uuid[]))
                THEN missing
                ELSE ('coatcheck: suppressed ' OPERATOR(pg_catalog.||) missing)::int END AS suppressed
    FROM tally, LATERAL (
        SELECT fresh OPERATOR(pg_catalog.-) loaded OPERATOR(pg_catalog.-) quarantined AS missing
    ) AS difference
), logged AS (
    INSERT INTO coatcheck.batch (pipeline, worker, kid, loaded, quarantined, duplicates, oldest_sent)
    SELECT %(pipeline)s, %(worker)s, coatcheck.using_key(%(kid)s), loaded, quarantined, duplicates,
           pg_catalog.to_timestamp(%(oldest_ms)s::pg_catalog.int8 OPERATOR(pg_catalog./) 1000.0)
    FROM counted
)
SELECT loaded, quarantined, duplicates, suppressed, (SELECT erasures FROM coatcheck.erased) FROM counted
WHERE CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
           THEN pg_catalog.set_config('synchronous_commit', 'on', true) ELSE '' END IS NOT NULL
