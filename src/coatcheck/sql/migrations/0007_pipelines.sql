-- serves: 0006
-- The register: which pipelines load into this database, and which columns hold what was made under a key.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.
--
-- Keys, originals, tokens and partitions belong to the whole database. What decides about them (retokenize, retire,
-- rotate, erase, maintain, check) reads this register and never one configuration file, which knows some pipelines only.

-- In the order in which a batch of a running loader takes them: it waits, and nobody waits in a circle.
LOCK TABLE coatcheck.quarantine, coatcheck.batch IN ACCESS EXCLUSIVE MODE;

-- Tells this database from others that share its keyring. A copy of the database has the same id. adopted says that there
-- were tokens before there was a register: the table that has them is known when the pipeline "default" is registered.
CREATE TABLE coatcheck.database (
    one_row     boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    database_id uuid    NOT NULL DEFAULT gen_random_uuid(),
    adopted     boolean NOT NULL
);

INSERT INTO coatcheck.database (adopted) SELECT EXISTS (SELECT FROM coatcheck.token_key);

-- One row for each pipeline, written by `coatcheck migrate`. keep_epochs is [vault] keep_epochs of its file (0: all),
-- clear are the columns that it fills without a mask: no other pipeline may mask those of the same table.
CREATE TABLE coatcheck.pipeline (
    pipeline     text        PRIMARY KEY CHECK (pipeline ~ '^[a-z][a-z0-9_]{0,31}$'),
    table_schema text        NOT NULL,
    table_name   text        NOT NULL,
    queue        text        NOT NULL CHECK (length(queue) <= 2048),
    epoch        text        NOT NULL CHECK (epoch IN ('year', 'quarter', 'month')),
    keep_epochs  integer     NOT NULL CHECK (keep_epochs >= 0),
    clear        text[]      NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT now()
);

-- Masked columns. One that a pipeline does not configure any more stays, with the time in left_at, until none of its tokens
-- is left. A regclass follows a table that is renamed or moved, and is right in a restored dump; attnum finds a column that
-- was renamed. What stands here is what makes its texts: path is the field that it is filled from, scheme is empty for masks
-- whose text names no key.
CREATE TABLE coatcheck.masked_column (
    pipeline     text        NOT NULL REFERENCES coatcheck.pipeline,
    relation     regclass    NOT NULL,
    column_name  text        NOT NULL,
    attnum       smallint    NOT NULL,
    scheme       text        NOT NULL CHECK (scheme IN ('pt1', 'ps1', '')),
    domain       text        NOT NULL,
    mask         text        NOT NULL,
    type         text        NOT NULL,
    path         text[]      NOT NULL,
    parse        text        NOT NULL,
    casefold     boolean     NOT NULL,
    strip_chars  text        NOT NULL,
    vault        boolean     NOT NULL,
    left_at      timestamptz,
    PRIMARY KEY (pipeline, relation, column_name, scheme, domain)
);

-- Which pipeline a batch and a rejected message belong to. What is there was loaded by the only one there could be.
ALTER TABLE coatcheck.batch ADD COLUMN pipeline text NOT NULL DEFAULT 'default';
ALTER TABLE coatcheck.quarantine ADD COLUMN pipeline text NOT NULL DEFAULT 'default';
ALTER TABLE coatcheck.batch ADD CONSTRAINT batch_pipeline CHECK (pipeline ~ '^[a-z][a-z0-9_]{0,31}$') NOT VALID;
ALTER TABLE coatcheck.quarantine ADD CONSTRAINT quarantine_pipeline CHECK (pipeline ~ '^[a-z][a-z0-9_]{0,31}$') NOT VALID;

-- Keys that wrap data keys, as this database has seen them: a loader with another seal pair would seal what nobody here
-- opens.
CREATE TABLE coatcheck.seal_key (
    kek        text        PRIMARY KEY CHECK (kek ~ '^[a-z-]{1,16}:[!-~]+$' AND length(kek) <= 2048),
    state      text        NOT NULL DEFAULT 'in use' CHECK (state IN ('in use', 'retired')),
    changed_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO coatcheck.seal_key (kek) SELECT DISTINCT kek FROM coatcheck.data_key;

-- Takes note of the first key that wraps data keys, and returns the state of the one given; NULL: it is unknown here.
-- Whoever the loader logs in as, a seal pair that was swapped must not be added by a start.
CREATE FUNCTION coatcheck.register_seal_key(kek text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    INSERT INTO coatcheck.seal_key (kek)
    SELECT register_seal_key.kek WHERE NOT EXISTS (SELECT FROM coatcheck.seal_key)
    ON CONFLICT DO NOTHING;
    RETURN (SELECT s.state FROM coatcheck.seal_key AS s WHERE s.kek = register_seal_key.kek);
END
$$;

-- Adds a key that wraps data keys: for `keys rotate-seal`, and for `keys rewrap`, which has opened all data keys by then.
CREATE FUNCTION coatcheck.add_seal_key(kek text) RETURNS text
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    INSERT INTO coatcheck.seal_key AS s (kek) VALUES (add_seal_key.kek)
    ON CONFLICT (kek) DO UPDATE SET state = s.state
    RETURNING s.state
$$;

-- Notes that a key wraps no data key any more and never will. Raises CC002 while one is wrapped by it.
CREATE FUNCTION coatcheck.retire_seal_key(kek text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF EXISTS (SELECT FROM coatcheck.data_key AS k WHERE k.kek = retire_seal_key.kek) THEN
        RAISE EXCEPTION 'it still wraps data keys' USING ERRCODE = 'CC002';
    END IF;
    UPDATE coatcheck.seal_key AS s SET state = 'retired', changed_at = now() WHERE s.kek = retire_seal_key.kek;
END
$$;

-- Held messages of one pipeline: each is tried by the columns of its own, and loaded into the table of its own.
CREATE FUNCTION coatcheck.retry_open(ids bigint[], reason text, pipeline text)
    RETURNS TABLE (request_id bigint, items bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := coatcheck.clock();
BEGIN
    INSERT INTO coatcheck.reveal_request AS r (kind, requested_by, requested_id, reason, ticket, items, approvals,
                                               break_glass, requested_at, expires_at)
    VALUES ('retry', session_user, coatcheck.me(), 'RETRY', '', 0, 0, false, now_, now_ + interval '24 hours')
    RETURNING r.request_id INTO request_id;
    INSERT INTO coatcheck.reveal_item (request_id, item)
    SELECT retry_open.request_id, 'quarantine:' || q.quarantine_id
    FROM coatcheck.quarantine AS q
    WHERE q.state = 'held' AND q.pipeline = retry_open.pipeline
      AND (retry_open.ids IS NULL OR q.quarantine_id = ANY (retry_open.ids))
      AND (retry_open.reason IS NULL OR q.reason = retry_open.reason);
    GET DIAGNOSTICS items = ROW_COUNT;
    UPDATE coatcheck.reveal_request AS r SET items = retry_open.items WHERE r.request_id = retry_open.request_id;
    INSERT INTO coatcheck.reveal_opening (request_id, xid, opened_at, closes_at)
    VALUES (retry_open.request_id, pg_current_xact_id(), now_, now_ + interval '24 hours');
    PERFORM coatcheck.record('quarantine retry opened', jsonb_build_object(
        'request', retry_open.request_id, 'items', retry_open.items, 'pipeline', retry_open.pipeline));
    RETURN NEXT;
END
$$;

-- What programs of before call: they know one pipeline.
CREATE OR REPLACE FUNCTION coatcheck.retry_open(ids bigint[], reason text) RETURNS TABLE (request_id bigint, items bigint)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$ SELECT request_id, items FROM coatcheck.retry_open(ids, reason, 'default') $$;

-- Gives held messages of one pipeline up: their bodies go, the entries stay as a record of who did it and when.
CREATE FUNCTION coatcheck.quarantine_discard(ids bigint[], reason text, pipeline text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    discarded bigint;
BEGIN
    UPDATE coatcheck.quarantine AS q
    SET state = 'discarded', ciphertext = NULL, nonce = NULL, resolved_at = now(), resolved_by = session_user
    WHERE q.state = 'held' AND q.pipeline = quarantine_discard.pipeline
      AND (quarantine_discard.reason IS NULL OR q.reason = quarantine_discard.reason)
      AND (quarantine_discard.ids IS NULL OR q.quarantine_id = ANY (quarantine_discard.ids));
    GET DIAGNOSTICS discarded = ROW_COUNT;
    PERFORM coatcheck.record('quarantine discarded', jsonb_build_object(
        'items', discarded, 'pipeline', quarantine_discard.pipeline));
    RETURN discarded;
END
$$;

CREATE OR REPLACE FUNCTION coatcheck.quarantine_discard(ids bigint[], reason text) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$ SELECT coatcheck.quarantine_discard(ids, reason, 'default') $$;

-- Counts for metrics of one pipeline, and of the desk, which all share.
CREATE FUNCTION coatcheck.figures(pipeline text) RETURNS TABLE (figure text, label text, value bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT 'held', q.reason, count(*) FROM coatcheck.quarantine AS q
    WHERE q.state = 'held' AND q.pipeline = figures.pipeline GROUP BY q.reason
    UNION ALL SELECT figure, label, value FROM coatcheck.figures() WHERE figure <> 'held'
$$;

REVOKE ALL ON FUNCTION coatcheck.register_seal_key(text), coatcheck.add_seal_key(text), coatcheck.retire_seal_key(text),
    coatcheck.retry_open(bigint[], text, text), coatcheck.quarantine_discard(bigint[], text, text),
    coatcheck.figures(text) FROM PUBLIC;
