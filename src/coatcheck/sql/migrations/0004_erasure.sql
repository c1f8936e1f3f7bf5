-- Erasure: originals go for good, on record.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- Counts what has been erased, in the transaction that erases: a loader that sees another number than before forgets
-- which tokens it has stored, so that what comes again is stored again.
CREATE TABLE coatcheck.erased (
    one_row  boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    erasures bigint  NOT NULL DEFAULT 0
);

INSERT INTO coatcheck.erased DEFAULT VALUES;

-- Begins an erasure: `how` is token, value, subject or epoch. Returns the number of its entry on the trail, or a refusal.
CREATE FUNCTION coatcheck.erase_begin(how text, reason text, ticket text, figures jsonb)
    RETURNS TABLE (erasure_id bigint, refusal text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    refusal := CASE WHEN (how IN ('token', 'value', 'subject', 'epoch')) IS NOT TRUE THEN 'how'
                    ELSE coatcheck.unreasonable(reason, ticket) END;
    erasure_id := coatcheck.audit_append(
        CASE WHEN refusal IS NULL THEN 'erasure begun' ELSE 'erasure refused' END,
        (CASE WHEN refusal IS NULL
              THEN coatcheck.only_figures(figures) || jsonb_build_object('how', how, 'reason', reason, 'ticket', ticket)
              ELSE jsonb_build_object('why', refusal) END)::text);
    RETURN NEXT;
END
$$;

-- The part of an object that is a count by a known name, or the name of a column or domain.
CREATE FUNCTION coatcheck.only_figures(object jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT coalesce(jsonb_object_agg(key, value), '{}')
    FROM jsonb_each(object)
    WHERE (key IN ('tokens', 'texts', 'entries', 'named', 'shared', 'late', 'tombstones', 'data_keys', 'epoch')
           AND jsonb_typeof(value) = 'number' AND value::text ~ '^[0-9]{1,15}$')
       OR (key = 'column' AND value #>> '{}' ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$')
       OR (key = 'domain' AND value #>> '{}' ~ '^[a-z0-9]{1,16}$')
$$;

-- Returns the number of an erasure that the user of this session has begun within a day and not ended. Raises CC005 if
-- there is none: what is erased has a reason and a ticket on the trail.
CREATE FUNCTION coatcheck.require_erasure(erasure_id bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM coatcheck.audit AS a
                   WHERE a.seq = erasure_id AND a.event = 'erasure begun' AND a.actor = session_user
                     AND a.at_us > (extract(epoch FROM coatcheck.clock()) - 86400) * 1000000)
       OR EXISTS (SELECT FROM coatcheck.audit AS a
                  WHERE a.seq > erasure_id AND a.event = 'erasure ended'
                    AND (a.detail::jsonb ->> 'erasure')::bigint = erasure_id) THEN
        RAISE EXCEPTION 'no such erasure was begun by this user' USING ERRCODE = 'CC005';
    END IF;
    RETURN erasure_id;
END
$$;

-- Erases what the vault has of tokens: entries of every epoch, aliases, and their names in requests (with the salt that
-- would tell them from the digest on the trail). In the transaction of the caller, who erases them from the rows.
CREATE FUNCTION coatcheck.erase_tokens(erasure_id bigint, tokens text[])
    RETURNS TABLE (entries bigint, aliases bigint, named bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM coatcheck.require_erasure(erasure_id);
    IF EXISTS (SELECT FROM unnest(erase_tokens.tokens) AS t WHERE t !~ '^p[ts]1_') THEN
        RAISE EXCEPTION 'nothing but tokens is erased here' USING ERRCODE = 'CC002';
    END IF;
    UPDATE coatcheck.erased SET erasures = erasures + 1;
    DELETE FROM coatcheck.vault AS v WHERE v.token = ANY (erase_tokens.tokens);
    GET DIAGNOSTICS entries = ROW_COUNT;
    DELETE FROM coatcheck.alias AS a
    WHERE a.old_token = ANY (erase_tokens.tokens) OR a.new_token = ANY (erase_tokens.tokens);
    GET DIAGNOSTICS aliases = ROW_COUNT;
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);  -- before requests, as the desk does it: neither waits in a circle
    UPDATE coatcheck.reveal_request AS r SET salt = NULL
    WHERE r.request_id IN (SELECT i.request_id FROM coatcheck.reveal_item AS i WHERE i.item = ANY (erase_tokens.tokens));
    UPDATE coatcheck.reveal_item AS i SET item = 'erased:' || gen_random_uuid()
    WHERE i.item = ANY (erase_tokens.tokens);
    GET DIAGNOSTICS named = ROW_COUNT;
    PERFORM coatcheck.record('tokens erased', jsonb_build_object('erasure', erasure_id, 'tokens', cardinality(tokens),
                                                                 'entries', entries, 'aliases', aliases, 'named', named));
    RETURN NEXT;
END
$$;

CREATE FUNCTION coatcheck.erase_end(erasure_id bigint, figures jsonb) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT coatcheck.record('erasure ended', coatcheck.only_figures(figures) || jsonb_build_object('erasure', coatcheck.require_erasure(erasure_id)))
$$;

-- Erases all originals of an epoch that is over, and the data keys that nothing is sealed under any more. A data key
-- that may still be in use (they live an hour) stays: `young` is how many. `keks` are the keys that the epoch's data keys
-- are wrapped under. Dropping the partition shuts loaders out of the vault, so it comes last, right before the commit.
CREATE FUNCTION coatcheck.erase_epoch(erasure_id bigint, epoch integer)
    RETURNS TABLE (entries bigint, data_keys bigint, young bigint, keks text[])
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '10s'
AS $$
#variable_conflict use_column
DECLARE
    now_   timestamptz := coatcheck.clock();
    today  date := (now_ AT TIME ZONE 'UTC')::date;
    latest integer := CASE length(erase_epoch.epoch::text)
                      WHEN 4 THEN extract(year FROM today)
                      WHEN 5 THEN extract(year FROM today) * 10 + extract(quarter FROM today)
                      WHEN 6 THEN extract(year FROM today) * 100 + extract(month FROM today) END;
BEGIN
    PERFORM coatcheck.require_erasure(erasure_id);
    IF latest IS NULL OR erase_epoch.epoch >= latest THEN
        RAISE EXCEPTION 'only an epoch that is over can be erased' USING ERRCODE = 'CC004';
    END IF;
    UPDATE coatcheck.erased SET erasures = erasures + 1;
    SELECT coalesce(array_agg(DISTINCT k.kek), '{}') INTO keks
    FROM coatcheck.data_key AS k
    WHERE k.dek_id IN (SELECT v.dek_id FROM coatcheck.vault AS v WHERE v.epoch = erase_epoch.epoch);
    SELECT count(*) INTO entries FROM coatcheck.vault AS v WHERE v.epoch = erase_epoch.epoch;
    SELECT count(*) INTO young
    FROM coatcheck.data_key AS k
    WHERE k.created_at >= now_ - interval '48 hours'
      AND NOT EXISTS (SELECT FROM coatcheck.vault AS v WHERE v.dek_id = k.dek_id AND v.epoch <> erase_epoch.epoch)
      AND NOT EXISTS (SELECT FROM coatcheck.quarantine AS q WHERE q.dek_id = k.dek_id AND q.ciphertext IS NOT NULL);
    DELETE FROM coatcheck.data_key AS k
    WHERE k.created_at < now_ - interval '48 hours'
      AND NOT EXISTS (SELECT FROM coatcheck.vault AS v WHERE v.dek_id = k.dek_id AND v.epoch <> erase_epoch.epoch)
      AND NOT EXISTS (SELECT FROM coatcheck.quarantine AS q WHERE q.dek_id = k.dek_id AND q.ciphertext IS NOT NULL);
    GET DIAGNOSTICS data_keys = ROW_COUNT;
    PERFORM coatcheck.record('epoch erased', jsonb_build_object('erasure', erasure_id, 'epoch', erase_epoch.epoch,
                                                                'entries', entries, 'data_keys', data_keys));
    IF to_regclass(format('coatcheck.vault_%s', erase_epoch.epoch)) IS NOT NULL THEN
        EXECUTE format('DROP TABLE coatcheck.vault_%s', erase_epoch.epoch);
    ELSE
        DELETE FROM coatcheck.vault AS v WHERE v.epoch = erase_epoch.epoch;
    END IF;
    RETURN NEXT;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA coatcheck FROM PUBLIC;
