-- One batch, one statement, one transaction. The ledger decides which messages are new; rows and rejects follow it. The
-- vault's entries do not ask the ledger: they are of rows that are here now, or have been since an earlier transaction.
-- Parameters are arrays, one element a message, sorted by slot and key (two workers that meet the same keys meet in the same
-- order, so they wait instead of deadlocking). The transaction waits for the disk even where the session has
-- synchronous_commit = off, which behind a pooler is not ours to set: the statement sets it for this transaction.
-- {target}, {columns}, {arrays}, {names} and {fields} are composed once.
WITH fresh AS (
    INSERT INTO coatcheck.ledger (message_key, slot)
    SELECT message_key, slot FROM unnest(%(keys)s::uuid[], %(slots)s::int4[]) AS batch (message_key, slot)
    ON CONFLICT DO NOTHING
    RETURNING message_key
), loaded AS (
    INSERT INTO {target} ({columns})
    SELECT {fields}
    FROM unnest(%(row_keys)s::uuid[], {arrays}) WITH ORDINALITY AS batch (message_key, {names}, place)
    JOIN fresh USING (message_key)
    ORDER BY place
    RETURNING 1
), data_keys AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT * FROM unnest(%(dek_ids)s::uuid[], %(keks)s::text[], %(wrapped)s::bytea[])
    ON CONFLICT DO NOTHING
), vaulted AS (
    INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
    SELECT * FROM unnest(%(tokens)s::text[], %(epochs)s::int4[], %(vault_deks)s::uuid[], %(vault_nonces)s::bytea[],
                         %(vault_ciphertexts)s::bytea[])
    ON CONFLICT DO NOTHING
), aliased AS (
    INSERT INTO coatcheck.alias (old_token, new_token)
    SELECT * FROM unnest(%(old_tokens)s::text[], %(new_tokens)s::text[]) AS batch (old_token, new_token)
    WHERE NOT EXISTS (SELECT FROM coatcheck.token_key
                      WHERE kid = split_part(old_token, '_', 3) AND state = 'retired')
    ON CONFLICT DO NOTHING
), quarantined AS (
    INSERT INTO coatcheck.quarantine
        (pipeline, message_key, message_id, origin, reason, detail, sent_at, received_at, dek_id, nonce, ciphertext)
    SELECT %(pipeline)s, message_key, message_id, origin, reason, detail,
           to_timestamp(sent_ms / 1000.0), to_timestamp(received_ms / 1000.0), dek_id, nonce, ciphertext
    FROM unnest(%(reject_keys)s::uuid[], %(message_ids)s::text[], %(origins)s::text[], %(reasons)s::text[],
                %(details)s::text[], %(sent_ms)s::int8[], %(received_ms)s::int8[], %(body_deks)s::uuid[],
                %(nonces)s::bytea[], %(ciphertexts)s::bytea[]) WITH ORDINALITY
         AS batch (message_key, message_id, origin, reason, detail, sent_ms, received_ms, dek_id, nonce, ciphertext,
                   place)
    JOIN fresh USING (message_key)
    ORDER BY place
    RETURNING 1
), tally AS MATERIALIZED (
    SELECT (SELECT count(*) FROM fresh)::int AS fresh, (SELECT count(*) FROM loaded)::int AS loaded,
           (SELECT count(*) FROM quarantined)::int AS quarantined
), counted AS (
    -- What is fresh is loaded or quarantined, or a trigger or rule of the table kept it out. Unless that is accepted (for
    -- rows, never for rejects), the cast fails, with a text of ours, and the transaction with it.
    SELECT loaded, quarantined, %(messages)s::int - fresh AS duplicates,
           CASE WHEN fresh = loaded + quarantined THEN 0
                WHEN %(accept)s::bool AND quarantined = (SELECT count(*) FROM fresh
                                                         WHERE message_key = ANY (%(reject_keys)s::uuid[]))
                THEN fresh - loaded - quarantined
                ELSE ('coatcheck: suppressed ' || (fresh - loaded - quarantined))::int END AS suppressed
    FROM tally
), logged AS (
    INSERT INTO coatcheck.batch (pipeline, worker, kid, loaded, quarantined, duplicates, oldest_sent)
    SELECT %(pipeline)s, %(worker)s, coatcheck.using_key(%(kid)s), loaded, quarantined, duplicates,
           to_timestamp(%(oldest_ms)s::int8 / 1000.0)
    FROM counted
)
SELECT loaded, quarantined, duplicates, suppressed, (SELECT erasures FROM coatcheck.erased) FROM counted
WHERE CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true)
           ELSE '' END IS NOT NULL
