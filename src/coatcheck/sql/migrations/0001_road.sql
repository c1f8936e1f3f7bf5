-- The road: the ledger, the quarantine, the data keys and the record of batches.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- Which messages have had their effect. A ring of 64 daily partitions: slot = send second modulo 64 days, so that no
-- partition is ever missing and none has to be made ahead. Slot -1 holds keys that are not bound to a time.
-- The slot leads the key: what is sent at about the same time lies together, so that a batch touches a few pages of the
-- index, however large it has grown. loaded_on is for pruning only; the key is unique by itself within its slot.
CREATE TABLE coatcheck.ledger (
    message_key uuid    NOT NULL,
    loaded_on   date    NOT NULL DEFAULT current_date,
    slot        integer NOT NULL CHECK (slot >= -1 AND slot < 64 * 86400),
    PRIMARY KEY (slot, message_key)
) PARTITION BY RANGE (slot);

CREATE TABLE coatcheck.ledger_forever PARTITION OF coatcheck.ledger FOR VALUES FROM (-1) TO (0);

DO $$
BEGIN
    FOR day IN 0..63 LOOP
        EXECUTE format('CREATE TABLE coatcheck.ledger_%s PARTITION OF coatcheck.ledger FOR VALUES FROM (%s) TO (%s)',
                       lpad(day::text, 2, '0'), day * 86400, (day + 1) * 86400);
    END LOOP;
END
$$;

-- Data keys as wrapped by the key-encryption key named in kek. The loader inserts them; it cannot unwrap them.
CREATE TABLE coatcheck.data_key (
    dek_id     uuid        PRIMARY KEY,
    kek        text        NOT NULL,
    wrapped    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Messages that could not be loaded, bodies sealed (AES-256-GCM under a data key).
CREATE TABLE coatcheck.quarantine (
    quarantine_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_key    uuid        NOT NULL,
    message_id     text        NOT NULL,
    origin         text,
    reason         text        NOT NULL,
    detail         text        NOT NULL DEFAULT '',
    sent_at        timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    dek_id         uuid,
    nonce          bytea       CHECK (octet_length(nonce) = 12),
    ciphertext     bytea,
    state          text        NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'loaded', 'discarded')),
    attempts       integer     NOT NULL DEFAULT 1,
    resolved_at    timestamptz,
    resolved_by    text,
    CHECK ((state = 'discarded') = (ciphertext IS NULL))
);

CREATE INDEX quarantine_held ON coatcheck.quarantine (reason, quarantine_id) WHERE state = 'held';

-- One row for each committed batch, in its own transaction: what `status` counts rates and lag from.
CREATE TABLE coatcheck.batch (
    committed_at timestamptz NOT NULL DEFAULT now(),
    worker       text        NOT NULL,
    loaded       integer     NOT NULL,
    quarantined  integer     NOT NULL,
    duplicates   integer     NOT NULL,
    oldest_sent  timestamptz NOT NULL
);

CREATE INDEX batch_recent ON coatcheck.batch USING brin (committed_at);

-- Forgets what can be forgotten: ledger days whose last entry is older than `keep_days`, batches older than two days.
-- SQS keeps a message 14 days at most, a dead-letter queue 14 more from there; 40 days leave a margin.
-- Runs as its owner so that a loader without DELETE or TRUNCATE may call it; it can never touch a live day: a day that
-- seems dead is locked and looked at again, as a message may have been written to it since; one that is in use is left.
CREATE FUNCTION coatcheck.prune(keep_days integer DEFAULT 40) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
    part   regclass;
    look   text;
    dead   boolean;
    pruned integer := 0;
BEGIN
    IF keep_days < 30 THEN
        RAISE EXCEPTION 'the ledger must remember at least 30 days';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the ledger is pruned in READ COMMITTED only: the second look must see what came after the first';
    END IF;
    FOR part IN
        SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent = 'coatcheck.ledger'::regclass AND inhrelid <> 'coatcheck.ledger_forever'::regclass
    LOOP
        look := format('SELECT EXISTS (SELECT FROM %1$s)'
                       ' AND NOT EXISTS (SELECT FROM %1$s WHERE loaded_on > current_date - $1)', part);
        EXECUTE look INTO dead USING keep_days;
        CONTINUE WHEN NOT dead;
        BEGIN
            EXECUTE format('LOCK TABLE %s NOWAIT', part);
        EXCEPTION WHEN lock_not_available THEN
            CONTINUE;
        END;
        EXECUTE look INTO dead USING keep_days;
        CONTINUE WHEN NOT dead;
        EXECUTE format('TRUNCATE %s', part);
        pruned := pruned + 1;
    END LOOP;
    DELETE FROM coatcheck.batch WHERE committed_at < now() - interval '2 days';
    RETURN pruned;
END
$$;

REVOKE ALL ON FUNCTION coatcheck.prune(integer) FROM PUBLIC;
