-- The desk: originals come back on request, approval and record only.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.
--
-- Functions here run as their owner, for the user of the session (session_user: SET ROLE does not hide who asks). They
-- do not raise when policy refuses, but return the refusal as a word, so that the entry about it on the trail is kept.
-- Each sets the time zone: a day of the caller's zone may be 300 hours long, or none.

-- In the order in which a batch of a running loader takes them: it waits, and nobody waits in a circle.
LOCK TABLE coatcheck.ledger, coatcheck.data_key, coatcheck.vault, coatcheck.alias, coatcheck.quarantine
    IN ACCESS EXCLUSIVE MODE;

-- What a loader may put in is bounded: nobody is to choke on it, or show it to a terminal, that has to work with it.
ALTER TABLE coatcheck.vault
    ADD CONSTRAINT vault_bounds CHECK (
        starts_with(token, 'pt1_') AND length(token) BETWEEN 49 AND 69 AND epoch BETWEEN 1970 AND 999912
        AND octet_length(ciphertext) BETWEEN 48 AND 2097152),
    ALTER first_seen SET DEFAULT (now() AT TIME ZONE 'UTC')::date;
ALTER TABLE coatcheck.data_key
    ADD CONSTRAINT data_key_bounds CHECK (kek ~ '^[a-z-]{1,16}:[!-~]+$' AND length(kek) <= 2048 AND octet_length(wrapped) <= 8192);
ALTER TABLE coatcheck.alias
    ADD CONSTRAINT alias_bounds CHECK (
        old_token ~ '^p[ts]1_[a-z0-9]{1,16}_k[0-9a-z]{1,6}_[A-Za-z0-9_-]+$' AND length(old_token) <= 8192
        AND new_token ~ '^p[ts]1_[a-z0-9]{1,16}_k[0-9a-z]{1,6}_[A-Za-z0-9_-]+$' AND length(new_token) <= 8192
        AND split_part(old_token, '_', 1) = split_part(new_token, '_', 1)
        AND split_part(old_token, '_', 2) = split_part(new_token, '_', 2)
        AND split_part(old_token, '_', 3) <> split_part(new_token, '_', 3));
ALTER TABLE coatcheck.ledger ALTER loaded_on SET DEFAULT (now() AT TIME ZONE 'UTC')::date;
ALTER FUNCTION coatcheck.prune(integer) SET timezone = 'UTC';

-- A message that was loaded from the quarantine has its body in a row by now: it is not kept twice.
ALTER TABLE coatcheck.quarantine DROP CONSTRAINT quarantine_check;
UPDATE coatcheck.quarantine SET ciphertext = NULL, nonce = NULL WHERE state <> 'held';
ALTER TABLE coatcheck.quarantine
    ADD CONSTRAINT quarantine_held_has_its_body CHECK ((state = 'held') = (ciphertext IS NOT NULL));

-- As before, but for epochs of about now only: thousands of partitions would bring everybody to a halt.
CREATE OR REPLACE FUNCTION coatcheck.make_epochs(epochs integer[]) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    number integer;
    made   integer := 0;
BEGIN
    IF cardinality(epochs) > 8 OR EXISTS (
        SELECT FROM unnest(epochs) AS e
        WHERE e IS NULL OR length(e::text) NOT BETWEEN 4 AND 6
           OR left(e::text, 4)::integer - extract(year FROM now()) NOT BETWEEN -1 AND 10
           OR NOT CASE length(e::text) WHEN 4 THEN true WHEN 5 THEN e % 10 BETWEEN 1 AND 4 ELSE e % 100 BETWEEN 1 AND 12 END
    ) THEN
        RAISE EXCEPTION 'epochs are up to 8 years, quarters (year and digit) or months (year and two digits), of about now';
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

-- Takes note of the token keys of a keyring, and freezes the canonical form of each domain under the active one, which
-- comes first. The first key of a database comes with its first loader; others come with `keys rotate` only: a loader
-- that could add one would stand in the way of the next rotation.
CREATE FUNCTION coatcheck.register_keys(kids text[], fingerprints text[], domains text[], form_ids text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(kids || fingerprints || domains || form_ids) AS t WHERE t IS NULL OR length(t) > 256)
       OR cardinality(kids) > 2 OR cardinality(domains) > 1000 THEN
        RAISE EXCEPTION 'this is no keyring' USING ERRCODE = 'CC002';
    END IF;
    IF has_function_privilege(session_user, 'coatcheck.key_event(text,text)', 'EXECUTE')
       OR NOT EXISTS (SELECT FROM coatcheck.token_key) THEN
        INSERT INTO coatcheck.token_key (kid, fingerprint)
        SELECT * FROM unnest(register_keys.kids, register_keys.fingerprints)
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO coatcheck.form (domain, kid, form_id)
    SELECT d.domain, k.kid, d.form_id
    FROM unnest(register_keys.domains, register_keys.form_ids) AS d (domain, form_id)
    JOIN coatcheck.token_key AS k ON k.kid = register_keys.kids[1]
    ON CONFLICT DO NOTHING;
END
$$;

CREATE FUNCTION coatcheck.clock() RETURNS timestamptz
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$ SELECT clock_timestamp() $$;

-- As before, but with the time taken in turn: entries of several sessions do not go back in time.
CREATE OR REPLACE FUNCTION coatcheck.audit_append(event text, detail text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    head   coatcheck.audit;
    number bigint;
    now_us bigint;
BEGIN
    IF octet_length(event) > 64 OR octet_length(detail) > 4096 THEN
        RAISE EXCEPTION 'an entry of the trail is short' USING ERRCODE = 'CC002';
    END IF;
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    SELECT * INTO head FROM coatcheck.audit ORDER BY seq DESC LIMIT 1;
    number := coalesce(head.seq, 0) + 1;
    INSERT INTO coatcheck.audit (seq, at_us, actor, event, detail, hash)
    VALUES (number, now_us, session_user, event, detail,
            coatcheck.audit_hash(coalesce(head.hash, decode(repeat('00', 32), 'hex')), number, now_us, session_user,
                                 event, detail));
    RETURN number;
END
$$;

-- Who is logged in, by what does not change with the name. A name is for people to read; only nobody's own request is his
-- by the name as well: a login that was made anew under it is taken for the same person there.
CREATE FUNCTION coatcheck.me() RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT oid FROM pg_roles WHERE rolname = session_user $$;

-- What the desk allows; one row, changed by coatcheck.set_policy only.
CREATE TABLE coatcheck.policy (
    one_row         boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    reasons         text[]  NOT NULL DEFAULT '{LEGAL,FRAUD,DSAR,INCIDENT}' CHECK (cardinality(reasons) > 0),
    ticket_pattern  text    NOT NULL DEFAULT '[A-Z][A-Z0-9]{1,9}-[0-9]{1,9}' CHECK (ticket_pattern <> ''),
    single_items    integer NOT NULL DEFAULT 50 CHECK (single_items > 0),     -- with one approval; above it takes two
    most_items      integer NOT NULL DEFAULT 200 CHECK (most_items BETWEEN 1 AND 10000),
    daily_items     integer NOT NULL DEFAULT 200 CHECK (daily_items >= 0),    -- of one person in 24 hours
    request_minutes integer NOT NULL DEFAULT 60 CHECK (request_minutes BETWEEN 1 AND 10080),
    opening_minutes integer NOT NULL DEFAULT 5 CHECK (opening_minutes BETWEEN 1 AND 60),
    review_hours    integer NOT NULL DEFAULT 24 CHECK (review_hours BETWEEN 1 AND 720),
    one_person      boolean NOT NULL DEFAULT false,                           -- no approval by anybody else
    break_glass     boolean NOT NULL DEFAULT true                             -- at once, reviewed afterwards
);

INSERT INTO coatcheck.policy DEFAULT VALUES;

-- Who asked for what and why. The digest on the trail is of salt and items; erasing an item erases the salt.
CREATE TABLE coatcheck.reveal_request (
    request_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL CHECK (kind IN ('token', 'quarantine', 'retry')),
    requested_by text        NOT NULL,
    requested_id oid         NOT NULL,  -- a name may change
    reason       text        NOT NULL,
    ticket       text        NOT NULL,
    items        integer     NOT NULL,
    approvals    integer     NOT NULL,
    break_glass  boolean     NOT NULL,
    salt         bytea,
    requested_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    denied_by    text,
    denied_at    timestamptz
);

CREATE INDEX reveal_request_daily ON coatcheck.reveal_request (requested_id, requested_at);

CREATE TABLE coatcheck.reveal_item (
    request_id bigint NOT NULL REFERENCES coatcheck.reveal_request,
    item       text   COLLATE "C" NOT NULL,
    PRIMARY KEY (request_id, item)
);

CREATE INDEX reveal_item_of ON coatcheck.reveal_item (item);

CREATE TABLE coatcheck.reveal_approval (
    request_id  bigint      NOT NULL REFERENCES coatcheck.reveal_request,
    approved_by text        NOT NULL,
    approved_id oid         NOT NULL,
    approved_at timestamptz NOT NULL,
    PRIMARY KEY (request_id, approved_id)
);

-- xid is the transaction that put the opening on the trail: nothing is handed out before it has committed.
CREATE TABLE coatcheck.reveal_opening (
    request_id bigint      PRIMARY KEY REFERENCES coatcheck.reveal_request,
    xid        xid8        NOT NULL,
    opened_at  timestamptz NOT NULL,
    closes_at  timestamptz NOT NULL,
    fetched_at timestamptz,
    settled    pg_lsn,
    shown      boolean     NOT NULL DEFAULT false
);

-- Puts an event on the trail; detail is an object of counts, names, reasons and tickets.
CREATE FUNCTION coatcheck.record(event text, detail jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$ SELECT coatcheck.audit_append(event, detail::text) $$;

-- The events that jobs about keys put on the trail themselves; all others come from the functions that do what they say.
CREATE FUNCTION coatcheck.key_event(event text, detail text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF event NOT IN ('rotation asked', 'token key added', 'retokenize begun', 'retokenize ended', 'key retired',
                     'data keys rewrapped', 'seal key retirement asked', 'seal key retired') THEN
        RAISE EXCEPTION 'this event is not one of a job about keys' USING ERRCODE = 'CC002';
    END IF;
    RETURN coatcheck.audit_append(event, detail);
END
$$;

CREATE FUNCTION coatcheck.set_policy(name text, value text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    before text;
    after  text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE attrelid = 'coatcheck.policy'::regclass AND attnum > 1
                                                   AND NOT attisdropped AND attname = set_policy.name) THEN
        RETURN 'option';
    END IF;
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    BEGIN
        EXECUTE format('SELECT %1$I::text FROM coatcheck.policy', name) INTO before;
        EXECUTE format('UPDATE coatcheck.policy SET %1$I = $1::%2$s RETURNING %1$I::text', name,
                       (SELECT format_type(atttypid, NULL) FROM pg_attribute
                        WHERE attrelid = 'coatcheck.policy'::regclass AND attname = set_policy.name))
            INTO after USING value;
        PERFORM coatcheck.unreasonable(reasons[1], 'INC-1') FROM coatcheck.policy;  -- the pattern is one
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        RETURN 'value';
    END;
    PERFORM coatcheck.record('policy changed', jsonb_build_object('option', name, 'before', before, 'after', after));
    RETURN NULL;
END
$$;

-- Why a reason or a ticket is not taken; NULL: it is.
CREATE FUNCTION coatcheck.unreasonable(reason text, ticket text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT CASE WHEN (reason = ANY (reasons)) IS NOT TRUE THEN 'reason'
                WHEN (ticket ~ ('^(?:' || ticket_pattern || ')$') AND ticket !~ '\n' AND length(ticket) <= 64) IS NOT TRUE
                THEN 'ticket' END
    FROM coatcheck.policy
$$;

-- Asks for originals: of tokens of the vault, or of quarantined messages (quarantine:ID).
CREATE FUNCTION coatcheck.reveal_request(items text[], reason text, ticket text, break_glass boolean DEFAULT false)
    RETURNS TABLE (request_id bigint, refusal text, figure bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    p       coatcheck.policy;
    now_    timestamptz;
    wanted  text[];
    count_  bigint;
    used    bigint;
    kind_   text;
    salt_   bytea;
    number  bigint;
BEGIN
    IF cardinality(items) > 10000 OR length(reason) > 64 OR length(ticket) > 64
       OR EXISTS (SELECT FROM unnest(items) AS item WHERE length(item) > 69) THEN
        items := '{}';  -- looked at no further, as others wait
    END IF;
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);  -- that of the trail: quotas are counted one request at a time
    now_ := coatcheck.clock();
    SELECT * INTO STRICT p FROM coatcheck.policy;
    SELECT coalesce(array_agg(DISTINCT item COLLATE "C" ORDER BY item COLLATE "C"), '{}') INTO wanted
    FROM unnest(items) AS item;
    count_ := cardinality(wanted);
    SELECT CASE WHEN bool_and(item ~ '^pt1_[a-z0-9]{1,16}_k[0-9a-z]{1,6}_[0-9a-f]{40}$') THEN 'token'
                WHEN bool_and(item ~ '^quarantine:[1-9][0-9]{0,17}$') THEN 'quarantine' END INTO kind_
    FROM unnest(wanted) AS item;
    SELECT coalesce(sum(r.items), 0) INTO used FROM coatcheck.reveal_request AS r
    WHERE r.requested_id = coatcheck.me() AND r.kind <> 'retry' AND r.requested_at > now_ - interval '24 hours';

    refusal := CASE
        WHEN kind_ IS NULL THEN 'item'
        WHEN coatcheck.unreasonable(reveal_request.reason, reveal_request.ticket) IS NOT NULL
        THEN coatcheck.unreasonable(reveal_request.reason, reveal_request.ticket)
        WHEN count_ > p.most_items THEN 'most'
        WHEN used + count_ > p.daily_items THEN 'quota'
        WHEN reveal_request.break_glass AND NOT p.break_glass THEN 'break-glass off'
        WHEN reveal_request.break_glass AND count_ > p.single_items THEN 'break-glass most'
        WHEN reveal_request.break_glass AND EXISTS (
            SELECT FROM coatcheck.reveal_request AS r
            WHERE r.requested_id = coatcheck.me() AND r.break_glass AND r.denied_at IS NULL
              AND NOT EXISTS (SELECT FROM coatcheck.reveal_approval AS a WHERE a.request_id = r.request_id)
        ) THEN 'break-glass unreviewed'
    END;
    figure := CASE refusal WHEN 'most' THEN p.most_items WHEN 'quota' THEN greatest(p.daily_items - used, 0)
                           WHEN 'break-glass most' THEN p.single_items END;
    IF refusal IS NULL AND kind_ = 'quarantine' THEN  -- whether the vault has a token is told at the opening, on record
        SELECT count(*) INTO figure FROM unnest(wanted) AS item
        WHERE NOT EXISTS (SELECT FROM coatcheck.quarantine AS q
                          WHERE q.state = 'held' AND q.quarantine_id = split_part(item, ':', 2)::bigint);
        refusal := CASE WHEN figure > 0 THEN 'unknown' END;
    END IF;
    IF refusal IS NOT NULL THEN
        PERFORM coatcheck.record('reveal request refused', jsonb_build_object('why', refusal, 'items', count_));
        RETURN NEXT;
        RETURN;
    END IF;

    salt_ := uuid_send(gen_random_uuid());
    INSERT INTO coatcheck.reveal_request (kind, requested_by, requested_id, reason, ticket, items, approvals, break_glass,
                                          salt, requested_at, expires_at)
    VALUES (kind_, session_user, coatcheck.me(), reveal_request.reason, reveal_request.ticket, count_,
            CASE WHEN p.one_person OR reveal_request.break_glass THEN 0 WHEN count_ > p.single_items THEN 2 ELSE 1 END,
            reveal_request.break_glass, salt_, now_, now_ + p.request_minutes * interval '1 minute')
    RETURNING reveal_request.request_id INTO number;
    INSERT INTO coatcheck.reveal_item (request_id, item) SELECT number, item FROM unnest(wanted) AS item;
    PERFORM coatcheck.record(
        CASE WHEN reveal_request.break_glass THEN 'reveal requested, glass broken' ELSE 'reveal requested' END,
        jsonb_build_object('request', number, 'kind', kind_, 'reason', reveal_request.reason,
                           'ticket', reveal_request.ticket, 'items', count_, 'one_person', p.one_person,
                           'digest', encode(sha256(salt_ || coatcheck.framed(wanted)), 'hex')));
    IF reveal_request.break_glass THEN
        RAISE LOG 'coatcheck: request % breaks the glass: % originals, to be reviewed', number, count_;
    END IF;
    request_id := number;
    figure := (SELECT r.approvals FROM coatcheck.reveal_request AS r WHERE r.request_id = number);
    RETURN NEXT;
END
$$;

-- What is the matter with a request at a moment, in one word; NULL for one that there is not.
CREATE FUNCTION coatcheck.reveal_state(request coatcheck.reveal_request, at timestamptz) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT CASE
        WHEN request.request_id IS NULL THEN NULL
        WHEN o.fetched_at IS NOT NULL THEN 'shown'
        WHEN request.denied_at IS NOT NULL THEN 'denied'
        WHEN o.closes_at IS NOT NULL AND at NOT BETWEEN o.opened_at AND o.closes_at THEN 'closed'
        WHEN o.closes_at IS NOT NULL THEN 'opened'
        WHEN at NOT BETWEEN request.requested_at AND request.expires_at THEN 'expired'
        WHEN (SELECT count(*) FROM coatcheck.reveal_approval AS a WHERE a.request_id = request.request_id)
             < request.approvals THEN 'waiting'
        ELSE 'approved' END
    FROM (VALUES (1)) AS one LEFT JOIN coatcheck.reveal_opening AS o ON o.request_id = request.request_id
$$;

-- Approves another person's request; of a broken glass it is the review. figure: approvals that are still missing.
CREATE FUNCTION coatcheck.reveal_approve(request_id bigint) RETURNS TABLE (refusal text, figure bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    r    coatcheck.reveal_request;
    now_ timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    now_ := coatcheck.clock();
    SELECT * INTO r FROM coatcheck.reveal_request AS q
    WHERE q.request_id = reveal_approve.request_id AND q.kind <> 'retry' FOR UPDATE;
    refusal := CASE
        WHEN r.request_id IS NULL THEN 'no request'
        WHEN r.requested_by = session_user OR r.requested_id = coatcheck.me() THEN 'self'
        WHEN r.denied_at IS NOT NULL THEN 'denied'
        WHEN EXISTS (SELECT FROM coatcheck.reveal_approval AS a
                     WHERE a.request_id = r.request_id AND a.approved_id = coatcheck.me()) THEN 'twice'
        WHEN r.break_glass THEN NULL
        WHEN coatcheck.reveal_state(r, now_) <> 'waiting' THEN coatcheck.reveal_state(r, now_)
    END;
    IF refusal IS NULL THEN
        INSERT INTO coatcheck.reveal_approval (request_id, approved_by, approved_id, approved_at)
        VALUES (r.request_id, session_user, coatcheck.me(), now_);
        figure := greatest(r.approvals - (SELECT count(*) FROM coatcheck.reveal_approval AS a
                                          WHERE a.request_id = r.request_id), 0);
    END IF;
    PERFORM coatcheck.record(
        CASE WHEN refusal IS NOT NULL THEN 'reveal approval refused'
             WHEN r.break_glass THEN 'reveal reviewed' ELSE 'reveal approved' END,
        jsonb_strip_nulls(jsonb_build_object('request', reveal_approve.request_id, 'why', refusal, 'missing', figure)));
    RETURN NEXT;
END
$$;

-- Denies a request; of a broken glass it is a review that objects. Who asked may take it back.
CREATE FUNCTION coatcheck.reveal_deny(request_id bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    r       coatcheck.reveal_request;
    refusal text;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    SELECT * INTO r FROM coatcheck.reveal_request AS q
    WHERE q.request_id = reveal_deny.request_id AND q.kind <> 'retry' FOR UPDATE;
    refusal := CASE
        WHEN r.request_id IS NULL THEN 'no request'
        WHEN r.break_glass AND (r.requested_by = session_user OR r.requested_id = coatcheck.me()) THEN 'self'
        WHEN (r.break_glass OR r.requested_id <> coatcheck.me())
             AND NOT has_function_privilege(session_user, 'coatcheck.reveal_approve(bigint)', 'EXECUTE') THEN 'not yours'
        WHEN r.denied_at IS NOT NULL THEN 'denied'
        WHEN NOT r.break_glass AND EXISTS (SELECT FROM coatcheck.reveal_opening AS o
                                           WHERE o.request_id = r.request_id) THEN 'opened'
    END;
    IF refusal IS NULL THEN
        UPDATE coatcheck.reveal_request AS q SET denied_by = session_user, denied_at = coatcheck.clock()
        WHERE q.request_id = r.request_id;
    END IF;
    PERFORM coatcheck.record(
        CASE WHEN refusal IS NULL THEN 'reveal denied' ELSE 'reveal denial refused' END,
        jsonb_strip_nulls(jsonb_build_object('request', reveal_deny.request_id, 'why', refusal)));
    RETURN refusal;
END
$$;

-- Puts the opening of an approved request on the trail. Originals are handed out by reveal_fetch, and only after this
-- has committed: what is rolled back here was never opened. An opening that nothing was fetched from can be had again.
CREATE FUNCTION coatcheck.reveal_open(request_id bigint) RETURNS TABLE (kind text, refusal text, figure bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    r     coatcheck.reveal_request;
    p     coatcheck.policy;
    now_  timestamptz;
    state text;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    now_ := coatcheck.clock();
    SELECT * INTO r FROM coatcheck.reveal_request AS q
    WHERE q.request_id = reveal_open.request_id AND q.kind <> 'retry' FOR UPDATE;
    SELECT * INTO STRICT p FROM coatcheck.policy;
    state := coatcheck.reveal_state(r, now_);
    refusal := CASE WHEN state IS NULL THEN 'no request'
                    WHEN r.requested_id <> coatcheck.me() THEN 'not yours'
                    WHEN state NOT IN ('approved', 'opened') THEN state
                    -- the policy may have become stricter since it was asked for
                    WHEN r.break_glass AND NOT p.break_glass THEN 'break-glass off'
                    WHEN r.approvals = 0 AND NOT r.break_glass AND NOT p.one_person THEN 'stricter'
                    WHEN r.items > p.most_items THEN 'stricter' END;
    figure := CASE refusal WHEN 'waiting' THEN
                  r.approvals - (SELECT count(*) FROM coatcheck.reveal_approval AS a WHERE a.request_id = r.request_id)
              END;
    IF refusal IS NULL THEN
        INSERT INTO coatcheck.reveal_opening AS o (request_id, xid, opened_at, closes_at)
        SELECT r.request_id, pg_current_xact_id(), now_, now_ + opening_minutes * interval '1 minute'
        FROM coatcheck.policy
        ON CONFLICT (request_id) DO UPDATE SET xid = excluded.xid, settled = NULL;
        kind := r.kind;
    END IF;
    PERFORM coatcheck.record(
        CASE WHEN refusal IS NULL THEN 'reveal opened' ELSE 'reveal opening refused' END,
        jsonb_strip_nulls(jsonb_build_object('request', reveal_open.request_id, 'why', refusal)
                          || CASE WHEN refusal IS NULL THEN jsonb_build_object('items', r.items) ELSE '{}' END));
    RETURN NEXT;
END
$$;

-- Notes how far the write-ahead log has come after the opening has committed: a commit may return before it is on the disk
-- (synchronous_commit is the caller's to set, up to the commit itself), and a crash would take back an opening that was made
-- use of. Nothing is handed out before the log is on the disk that far.
CREATE FUNCTION coatcheck.reveal_settle(request_id bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE coatcheck.reveal_opening AS o
    SET settled = coalesce(o.settled, pg_current_wal_insert_lsn())
    FROM coatcheck.reveal_request AS r
    WHERE o.request_id = reveal_settle.request_id AND r.request_id = o.request_id AND r.requested_id = coatcheck.me()
      AND o.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() AND pg_xact_status(o.xid) = 'committed'
$$;

-- Whether an opening is on the trail for good, belongs to this session's user, and is still open. Raises CC003 if not, and
-- CC006 if it is not on the disk yet.
CREATE FUNCTION coatcheck.require_open(request_id bigint, retry boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    settled pg_lsn;
BEGIN
    SELECT o.settled INTO settled
    FROM coatcheck.reveal_opening AS o JOIN coatcheck.reveal_request AS r USING (request_id)
    WHERE o.request_id = require_open.request_id AND r.requested_id = coatcheck.me() AND o.fetched_at IS NULL
      AND r.denied_at IS NULL AND (r.kind = 'retry') = require_open.retry
      AND o.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() AND pg_xact_status(o.xid) = 'committed'
      AND coatcheck.clock() BETWEEN o.opened_at AND o.closes_at;
    IF settled IS NULL THEN
        RAISE EXCEPTION 'the request is not open for this user' USING ERRCODE = 'CC003';
    END IF;
    IF settled > pg_current_wal_flush_lsn() THEN
        RAISE EXCEPTION 'the opening is not on the disk yet' USING ERRCODE = 'CC006';
    END IF;
END
$$;

-- Hands out what an open request is for: the sealed originals of its tokens (of each epoch, the newest first) or its
-- sealed messages, once. If the caller's transaction is rolled back, it may be called again while the opening lasts.
CREATE FUNCTION coatcheck.reveal_fetch(request_id bigint)
    RETURNS TABLE (item text, epoch integer, form_id text, message_key uuid, nonce bytea, ciphertext bytea, dek_id uuid,
                   kek text, wrapped bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM coatcheck.reveal_request AS r WHERE r.request_id = reveal_fetch.request_id FOR UPDATE;
    PERFORM coatcheck.require_open(reveal_fetch.request_id, false);
    UPDATE coatcheck.reveal_opening AS o SET fetched_at = coatcheck.clock() WHERE o.request_id = reveal_fetch.request_id;
    RETURN QUERY
        SELECT i.item, v.epoch, f.form_id, NULL::uuid, v.nonce, v.ciphertext, v.dek_id, k.kek, k.wrapped
        FROM coatcheck.reveal_item AS i
        CROSS JOIN LATERAL (SELECT * FROM coatcheck.vault AS v WHERE v.token = i.item ORDER BY v.epoch DESC LIMIT 12) AS v
        LEFT JOIN coatcheck.data_key AS k ON k.dek_id = v.dek_id
        LEFT JOIN coatcheck.form AS f ON f.domain = split_part(i.item, '_', 2) AND f.kid = split_part(i.item, '_', 3)
        WHERE i.request_id = reveal_fetch.request_id AND i.item NOT LIKE 'quarantine:%'
        UNION ALL
        SELECT i.item, NULL::integer, NULL::text, q.message_key, q.nonce, q.ciphertext, q.dek_id, k.kek, k.wrapped
        FROM coatcheck.reveal_item AS i
        JOIN coatcheck.quarantine AS q ON q.quarantine_id = split_part(i.item, ':', 2)::bigint AND q.state = 'held'
        LEFT JOIN coatcheck.data_key AS k ON k.dek_id = q.dek_id
        WHERE i.request_id = reveal_fetch.request_id AND i.item LIKE 'quarantine:%'
        ORDER BY 1, 2 DESC;
END
$$;

-- Puts on the trail, once, what became of an opening, as the client tells it: originals shown, not shown since they are
-- not those of their tokens (a loader has planted them), since they do not open (damaged), and those the vault has not.
CREATE FUNCTION coatcheck.reveal_shown(request_id bigint, shown integer, planted integer, damaged integer, gone integer)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    UPDATE coatcheck.reveal_opening AS o SET shown = true
    FROM coatcheck.reveal_request AS r
    WHERE o.request_id = reveal_shown.request_id AND r.request_id = o.request_id AND r.requested_id = coatcheck.me()
      AND o.fetched_at IS NOT NULL AND NOT o.shown
      AND least(reveal_shown.shown, planted, damaged, gone) >= 0 AND reveal_shown.shown + planted + damaged + gone = r.items;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the request was not fetched by this user, or is told of' USING ERRCODE = 'CC003';
    END IF;
    PERFORM coatcheck.record('reveal shown', jsonb_build_object('request', reveal_shown.request_id, 'shown', reveal_shown.shown,
                             'planted', planted, 'damaged', damaged, 'gone', gone));
END
$$;

-- The requests that this user may know of: approvers and auditors all, others their own; the newest first.
CREATE FUNCTION coatcheck.reveal_list(most integer DEFAULT 100)
    RETURNS TABLE (request_id bigint, state text, kind text, requested_by text, reason text, ticket text, items integer,
                   approvals integer, approved_by text[], break_glass boolean, review text, requested_at timestamptz,
                   expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT r.request_id, coatcheck.reveal_state(r, coatcheck.clock()), r.kind, r.requested_by, r.reason, r.ticket,
           r.items, r.approvals, a.approved_by, r.break_glass,
           CASE WHEN NOT r.break_glass THEN NULL
                WHEN r.denied_at IS NOT NULL THEN 'objected'
                WHEN cardinality(a.approved_by) > 0 THEN 'done'
                WHEN coatcheck.clock() > r.requested_at + p.review_hours * interval '1 hour' THEN 'overdue'
                ELSE 'due' END,
           r.requested_at, r.expires_at
    FROM coatcheck.reveal_request AS r
    CROSS JOIN coatcheck.policy AS p
    CROSS JOIN LATERAL (SELECT coalesce(array_agg(b.approved_by ORDER BY approved_at), '{}') AS approved_by
                        FROM coatcheck.reveal_approval AS b WHERE b.request_id = r.request_id) AS a
    WHERE r.requested_id = coatcheck.me()
       OR has_function_privilege(session_user, 'coatcheck.reveal_approve(bigint)', 'EXECUTE')
       OR has_table_privilege(session_user, 'coatcheck.audit', 'SELECT')
    ORDER BY r.request_id DESC
    LIMIT most
$$;

-- The items of a request, for whoever may know of it.
CREATE FUNCTION coatcheck.reveal_items(request_id bigint) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
    SELECT i.item
    FROM coatcheck.reveal_item AS i JOIN coatcheck.reveal_request AS r USING (request_id)
    WHERE i.request_id = reveal_items.request_id
      AND (r.requested_id = coatcheck.me()
           OR has_function_privilege(session_user, 'coatcheck.reveal_approve(bigint)', 'EXECUTE')
           OR has_table_privilege(session_user, 'coatcheck.audit', 'SELECT'))
    ORDER BY i.item
$$;

-- Puts on the trail that somebody looks up the token of a value that he knows; the value itself never comes here.
CREATE FUNCTION coatcheck.record_find(domain text, reason text, ticket text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    refusal text := CASE WHEN (domain ~ '^[a-z0-9]{1,16}$') IS NOT TRUE THEN 'domain'
                         ELSE coatcheck.unreasonable(reason, ticket) END;
BEGIN
    PERFORM coatcheck.record(
        CASE WHEN refusal IS NULL THEN 'token looked up' ELSE 'token look-up refused' END,
        CASE WHEN refusal IS NULL THEN jsonb_build_object('domain', domain, 'reason', reason, 'ticket', ticket)
             ELSE jsonb_build_object('why', refusal) END);
    RETURN refusal;
END
$$;

-- Opens held messages for another try. Nothing is shown to anybody, so nobody approves; it is on the trail all the same,
-- and what was opened is listed like other requests.
CREATE FUNCTION coatcheck.retry_open(ids bigint[], reason text) RETURNS TABLE (request_id bigint, items bigint)
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
    WHERE q.state = 'held' AND (retry_open.ids IS NULL OR q.quarantine_id = ANY (retry_open.ids))
      AND (retry_open.reason IS NULL OR q.reason = retry_open.reason);
    GET DIAGNOSTICS items = ROW_COUNT;
    UPDATE coatcheck.reveal_request AS r SET items = retry_open.items WHERE r.request_id = retry_open.request_id;
    INSERT INTO coatcheck.reveal_opening (request_id, xid, opened_at, closes_at)
    VALUES (retry_open.request_id, pg_current_xact_id(), now_, now_ + interval '24 hours');
    PERFORM coatcheck.record('quarantine retry opened',
                             jsonb_build_object('request', retry_open.request_id, 'items', retry_open.items));
    RETURN NEXT;
END
$$;

-- A page of the sealed messages of an open retry, in the order of their ids.
CREATE FUNCTION coatcheck.retry_fetch(request_id bigint, after bigint, most integer)
    RETURNS TABLE (quarantine_id bigint, message_key uuid, message_id text, origin text, reason text, sent_ms bigint,
                   received_ms bigint, nonce bytea, ciphertext bytea, dek_id uuid, kek text, wrapped bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM coatcheck.require_open(retry_fetch.request_id, true);
    RETURN QUERY
        SELECT q.quarantine_id, q.message_key, q.message_id, q.origin, q.reason,
               (extract(epoch FROM q.sent_at) * 1000)::bigint, (extract(epoch FROM q.received_at) * 1000)::bigint,
               q.nonce, q.ciphertext, k.dek_id, k.kek, k.wrapped
        FROM coatcheck.quarantine AS q JOIN coatcheck.data_key AS k ON k.dek_id = q.dek_id
        WHERE q.state = 'held' AND q.quarantine_id > retry_fetch.after
          AND EXISTS (SELECT FROM coatcheck.reveal_item AS i
                      WHERE i.request_id = retry_fetch.request_id AND i.item = 'quarantine:' || q.quarantine_id)
        ORDER BY q.quarantine_id
        LIMIT retry_fetch.most;
END
$$;

-- Ends a held message of an open retry of this user: its row is loaded in the same transaction. Returns NULL if it is not
-- held any more.
CREATE FUNCTION coatcheck.retry_loaded(request_id bigint, quarantine_id bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    released bigint;
BEGIN
    PERFORM coatcheck.require_retry(retry_loaded.request_id, retry_loaded.quarantine_id);
    UPDATE coatcheck.quarantine AS q
    SET state = 'loaded', ciphertext = NULL, nonce = NULL, resolved_at = now(), resolved_by = session_user
    WHERE q.quarantine_id = retry_loaded.quarantine_id AND q.state = 'held'
    RETURNING q.quarantine_id INTO released;
    RETURN released;
END
$$;

-- Notes that a held message of an open retry of this user was rejected again.
CREATE FUNCTION coatcheck.retry_rejected(request_id bigint, quarantine_id bigint, reason text, detail text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    PERFORM coatcheck.require_retry(retry_rejected.request_id, retry_rejected.quarantine_id);
    UPDATE coatcheck.quarantine AS q
    SET attempts = attempts + 1, reason = left(retry_rejected.reason, 64), detail = left(retry_rejected.detail, 256)
    WHERE q.quarantine_id = retry_rejected.quarantine_id AND q.state = 'held';
END
$$;

-- Whether a retry of this user is open for a message. Raises CC003 if not.
CREATE FUNCTION coatcheck.require_retry(request_id bigint, quarantine_id bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM coatcheck.reveal_request AS r
        JOIN coatcheck.reveal_item AS i USING (request_id) JOIN coatcheck.reveal_opening AS o USING (request_id)
        WHERE r.request_id = require_retry.request_id AND r.kind = 'retry' AND r.requested_id = coatcheck.me()
          AND i.item = 'quarantine:' || require_retry.quarantine_id
          AND coatcheck.clock() BETWEEN o.opened_at AND o.closes_at
    ) THEN
        RAISE EXCEPTION 'no retry of this user is open for the message' USING ERRCODE = 'CC003';
    END IF;
END
$$;

-- Gives held messages up: their bodies go, the entries stay as a record of who did it and when.
CREATE FUNCTION coatcheck.quarantine_discard(ids bigint[], reason text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    discarded bigint;
BEGIN
    UPDATE coatcheck.quarantine AS q
    SET state = 'discarded', ciphertext = NULL, nonce = NULL, resolved_at = now(), resolved_by = session_user
    WHERE q.state = 'held'
      AND (quarantine_discard.reason IS NULL OR q.reason = quarantine_discard.reason)
      AND (quarantine_discard.ids IS NULL OR q.quarantine_id = ANY (quarantine_discard.ids));
    GET DIAGNOSTICS discarded = ROW_COUNT;
    PERFORM coatcheck.record('quarantine discarded', jsonb_build_object('items', discarded));
    RETURN discarded;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA coatcheck FROM PUBLIC;
