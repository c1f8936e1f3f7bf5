-- The vault, what a rotation of the token key needs, and the audit trail.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.

-- Token keys as this database has seen them, so that a loader with an outdated keyring, or another one, is refused at its
-- start. The fingerprint tells keys apart and nothing of them.
CREATE TABLE coatcheck.token_key (
    kid         text        PRIMARY KEY,
    fingerprint text        NOT NULL,
    state       text        NOT NULL DEFAULT 'in use' CHECK (state IN ('in use', 'retired')),
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- Says that the transaction masks under this key, and refuses a key that is retired (SQLSTATE CC001). The shared lock
-- lasts until the commit: retiring takes it exclusively, so that no row under the key can slip in behind its last look.
CREATE FUNCTION coatcheck.using_key(kid text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'636f6177'::int, hashtext(using_key.kid));
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- the snapshot may be older than the lock: a retirement in between then fails this transaction (40001)
        PERFORM FROM coatcheck.token_key AS k WHERE k.kid = using_key.kid FOR SHARE;
    END IF;
    IF EXISTS (SELECT FROM coatcheck.token_key AS k WHERE k.kid = using_key.kid AND state = 'retired') THEN
        RAISE EXCEPTION 'the token key is retired' USING ERRCODE = 'CC001';
    END IF;
    RETURN using_key.kid;
END
$$;

REVOKE ALL ON FUNCTION coatcheck.using_key(text) FROM PUBLIC;

-- The canonical form of each domain is frozen for a key: another spelling of values would give other tokens, and
-- duplicates would fall apart without a word. A new form takes a new key (`coatcheck keys rotate`).
CREATE TABLE coatcheck.form (
    domain  text NOT NULL,
    kid     text NOT NULL,
    form_id text NOT NULL,
    PRIMARY KEY (domain, kid)
);

-- Originals, sealed (AES-256-GCM under a data key, bound to token and epoch). One entry for each token and epoch: what is
-- still in use is kept again in the next epoch, so that an old epoch can go as a whole. Tokens compare as bytes: their
-- order must not depend on a locale, and all tokens of one key lie together.
CREATE TABLE coatcheck.vault (
    token      text     COLLATE "C" NOT NULL,
    epoch      integer  NOT NULL,
    dek_id     uuid     NOT NULL,
    nonce      bytea    NOT NULL CHECK (octet_length(nonce) = 12),
    ciphertext bytea    NOT NULL,
    first_seen date     NOT NULL DEFAULT current_date,
    PRIMARY KEY (token, epoch)
) PARTITION BY LIST (epoch);

-- Where an epoch lands whose partition nobody made ahead: loading must not stop for that.
CREATE TABLE coatcheck.vault_other PARTITION OF coatcheck.vault DEFAULT;

-- Makes the partitions of epochs that have none. Runs as its owner so that a loader may call it. Takes turns, since two
-- that find the same one missing would both make it. An epoch that has rows in vault_other stays there.
CREATE FUNCTION coatcheck.make_epochs(epochs integer[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
    number integer;
    made   integer := 0;
BEGIN
    IF cardinality(epochs) > 8 OR EXISTS (SELECT FROM unnest(epochs) AS e WHERE e IS NULL OR e NOT BETWEEN 1970 AND 999912)
    THEN
        RAISE EXCEPTION 'epochs are up to 8 years, quarters (year and digit) or months (year and two digits)';
    END IF;
    FOREACH number IN ARRAY epochs LOOP
        CONTINUE WHEN to_regclass(format('coatcheck.vault_%s', number)) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(x'636f6175'::int);
        CONTINUE WHEN to_regclass(format('coatcheck.vault_%s', number)) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT FROM coatcheck.vault_other WHERE epoch = number);
        EXECUTE format('CREATE TABLE IF NOT EXISTS coatcheck.vault_%s PARTITION OF coatcheck.vault FOR VALUES IN (%s)', number, number);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

REVOKE ALL ON FUNCTION coatcheck.make_epochs(integer[]) FROM PUBLIC;

-- While a token key retires: the token under it and the one under the active key, of the same value. Written in the
-- transaction of the first row that has the new token, so that a view over both never tears a group.
CREATE TABLE coatcheck.alias (
    old_token  text        COLLATE "C" PRIMARY KEY,
    new_token  text        COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Under which token key a batch was masked.
ALTER TABLE coatcheck.batch ADD COLUMN kid text NOT NULL DEFAULT '';

-- The audit trail: a hash chain over integers and length-prefixed text (no dates: their text depends on settings).
-- detail is JSON text with counts, key ids, reasons and tickets; never a value.
CREATE TABLE coatcheck.audit (
    seq    bigint PRIMARY KEY,
    at_us  bigint NOT NULL,
    actor  text   NOT NULL,
    event  text   NOT NULL,
    detail text   NOT NULL,
    hash   bytea  NOT NULL CHECK (octet_length(hash) = 32)
);

-- Each text behind its length in bytes (4 bytes, big-endian): no two lists of texts give the same bytes.
CREATE FUNCTION coatcheck.framed(parts text[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(int4send(octet_length(convert_to(part, 'UTF8'))) || convert_to(part, 'UTF8'), ''
                               ORDER BY place), '')
    FROM unnest(parts) WITH ORDINALITY AS list (part, place)
$$;

-- hash = SHA-256(hash of the entry before, or 32 zero bytes || int8 seq || int8 at_us || framed actor, event, detail).
CREATE FUNCTION coatcheck.audit_hash(before bytea, seq bigint, at_us bigint, actor text, event text, detail text)
    RETURNS bytea
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sha256(before || int8send(seq) || int8send(at_us) || coatcheck.framed(ARRAY[actor, event, detail]))
$$;

-- Appends an entry for the database user of this session and returns its number; entries take turns. The actor is who
-- logged in (session_user): SET ROLE does not hide it.
CREATE FUNCTION coatcheck.audit_append(event text, detail text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head   coatcheck.audit;
    number bigint;
    now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    SELECT * INTO head FROM coatcheck.audit ORDER BY seq DESC LIMIT 1;
    number := coalesce(head.seq, 0) + 1;
    INSERT INTO coatcheck.audit (seq, at_us, actor, event, detail, hash)
    VALUES (number, now_us, session_user, event, detail,
            coatcheck.audit_hash(coalesce(head.hash, decode(repeat('00', 32), 'hex')), number, now_us, session_user,
                                 event, detail));
    RETURN number;
END
$$;

REVOKE ALL ON FUNCTION coatcheck.audit_append(text, text) FROM PUBLIC;
