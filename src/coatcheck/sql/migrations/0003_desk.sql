-- The desk: originals come back on request, approval and record only.
-- Runs in one transaction, under an advisory lock, by `coatcheck migrate`; safe while workers run.
--
-- Functions here run as their owner, for the user of the session (session_user: SET ROLE does not hide who asks). They
-- do not raise when policy refuses, but return the refusal as a word, so that the entry about it on the trail is kept.

CREATE FUNCTION coatcheck.clock() RETURNS timestamptz
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$ SELECT clock_timestamp() $$;

-- As before, but with the time taken in turn: entries of several sessions do not go back in time.
CREATE OR REPLACE FUNCTION coatcheck.audit_append(event text, detail text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head   coatcheck.audit;
    number bigint;
    now_us bigint;
BEGIN
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

CREATE INDEX reveal_request_daily ON coatcheck.reveal_request (requested_by, requested_at);

CREATE TABLE coatcheck.reveal_item (
    request_id bigint NOT NULL REFERENCES coatcheck.reveal_request,
    item       text   COLLATE "C" NOT NULL,
    PRIMARY KEY (request_id, item)
);

CREATE INDEX reveal_item_of ON coatcheck.reveal_item (item);

CREATE TABLE coatcheck.reveal_approval (
    request_id  bigint      NOT NULL REFERENCES coatcheck.reveal_request,
    approved_by text        NOT NULL,
    approved_at timestamptz NOT NULL,
    PRIMARY KEY (request_id, approved_by)
);

-- xid is the transaction that put the opening on the trail: nothing is handed out before it has committed.
CREATE TABLE coatcheck.reveal_opening (
    request_id bigint      PRIMARY KEY REFERENCES coatcheck.reveal_request,
    xid        xid8        NOT NULL,
    opened_at  timestamptz NOT NULL,
    closes_at  timestamptz NOT NULL,
    fetched_at timestamptz
);

-- Puts an event on the trail; detail is an object of counts, names, reasons and tickets.
CREATE FUNCTION coatcheck.record(event text, detail jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coatcheck.audit_append(event, detail::text) $$;

-- The events that jobs about keys put on the trail themselves; all others come from the functions that do what they say.
CREATE FUNCTION coatcheck.key_event(event text, detail text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        PERFORM 'x' ~ ticket_pattern FROM coatcheck.policy;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        RETURN 'value';
    END;
    PERFORM coatcheck.record('policy changed', jsonb_build_object('option', name, 'before', before, 'after', after));
    RETURN NULL;
END
$$;

-- Why a reason or a ticket is not taken; NULL: it is.
CREATE FUNCTION coatcheck.unreasonable(reason text, ticket text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN (reason = ANY (reasons)) IS NOT TRUE THEN 'reason'
                WHEN (ticket ~ ('^(?:' || ticket_pattern || ')$') AND ticket !~ '\n' AND length(ticket) <= 64) IS NOT TRUE
                THEN 'ticket' END
    FROM coatcheck.policy
$$;

-- Asks for originals: of tokens of the vault, or of quarantined messages (quarantine:ID).
CREATE FUNCTION coatcheck.reveal_request(items text[], reason text, ticket text, break_glass boolean DEFAULT false)
    RETURNS TABLE (request_id bigint, refusal text, figure bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);  -- that of the trail: quotas are counted one request at a time
    now_ := coatcheck.clock();
    SELECT * INTO STRICT p FROM coatcheck.policy;
    SELECT coalesce(array_agg(DISTINCT item COLLATE "C" ORDER BY item COLLATE "C"), '{}') INTO wanted
    FROM unnest(reveal_request.items) AS item;
    count_ := cardinality(wanted);
    SELECT CASE WHEN bool_and(item ~ '^pt1_[a-z0-9]{1,16}_k[0-9a-z]{1,6}_[0-9a-f]{40}$') THEN 'token'
                WHEN bool_and(item ~ '^quarantine:[1-9][0-9]{0,17}$') THEN 'quarantine' END INTO kind_
    FROM unnest(wanted) AS item;
    SELECT coalesce(sum(r.items), 0) INTO used FROM coatcheck.reveal_request AS r
    WHERE r.requested_by = session_user AND r.kind <> 'retry' AND r.requested_at > now_ - interval '1 day';

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
            WHERE r.requested_by = session_user AND r.break_glass AND r.denied_at IS NULL
              AND NOT EXISTS (SELECT FROM coatcheck.reveal_approval AS a WHERE a.request_id = r.request_id)
        ) THEN 'break-glass unreviewed'
    END;
    figure := CASE refusal WHEN 'most' THEN p.most_items WHEN 'quota' THEN greatest(p.daily_items - used, 0)
                           WHEN 'break-glass most' THEN p.single_items END;
    IF refusal IS NULL THEN
        SELECT count(*) INTO figure FROM unnest(wanted) AS item
        WHERE CASE kind_
              WHEN 'token' THEN NOT EXISTS (SELECT FROM coatcheck.vault AS v WHERE v.token = item)
              ELSE NOT EXISTS (SELECT FROM coatcheck.quarantine AS q WHERE q.state = 'held'
                               AND q.quarantine_id = split_part(item, ':', 2)::bigint) END;
        refusal := CASE WHEN figure > 0 THEN 'unknown' END;
    END IF;
    IF refusal IS NOT NULL THEN
        PERFORM coatcheck.record('reveal request refused', jsonb_build_object('why', refusal, 'items', count_));
        RETURN NEXT;
        RETURN;
    END IF;

    salt_ := uuid_send(gen_random_uuid());
    INSERT INTO coatcheck.reveal_request (kind, requested_by, reason, ticket, items, approvals, break_glass, salt,
                                          requested_at, expires_at)
    VALUES (kind_, session_user, reveal_request.reason, reveal_request.ticket, count_,
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
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
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
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        WHEN r.requested_by = session_user THEN 'self'
        WHEN r.denied_at IS NOT NULL THEN 'denied'
        WHEN EXISTS (SELECT FROM coatcheck.reveal_approval AS a
                     WHERE a.request_id = r.request_id AND a.approved_by = session_user) THEN 'twice'
        WHEN r.break_glass THEN NULL
        WHEN coatcheck.reveal_state(r, now_) <> 'waiting' THEN coatcheck.reveal_state(r, now_)
    END;
    IF refusal IS NULL THEN
        INSERT INTO coatcheck.reveal_approval (request_id, approved_by, approved_at)
        VALUES (r.request_id, session_user, now_);
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
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        WHEN r.break_glass AND r.requested_by = session_user THEN 'self'
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
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    r     coatcheck.reveal_request;
    now_  timestamptz;
    state text;
BEGIN
    PERFORM pg_advisory_xact_lock(x'636f6176'::int);
    now_ := coatcheck.clock();
    SELECT * INTO r FROM coatcheck.reveal_request AS q
    WHERE q.request_id = reveal_open.request_id AND q.kind <> 'retry' FOR UPDATE;
    state := coatcheck.reveal_state(r, now_);
    refusal := CASE WHEN state IS NULL THEN 'no request'
                    WHEN r.requested_by <> session_user THEN 'not yours'
                    WHEN state NOT IN ('approved', 'opened') THEN state END;
    figure := CASE refusal WHEN 'waiting' THEN
                  r.approvals - (SELECT count(*) FROM coatcheck.reveal_approval AS a WHERE a.request_id = r.request_id)
              END;
    IF refusal IS NULL THEN
        INSERT INTO coatcheck.reveal_opening AS o (request_id, xid, opened_at, closes_at)
        SELECT r.request_id, pg_current_xact_id(), now_, now_ + opening_minutes * interval '1 minute'
        FROM coatcheck.policy
        ON CONFLICT (request_id) DO UPDATE SET xid = excluded.xid;
        kind := r.kind;
    END IF;
    PERFORM coatcheck.record(
        CASE WHEN refusal IS NULL THEN 'reveal opened' ELSE 'reveal opening refused' END,
        jsonb_strip_nulls(jsonb_build_object('request', reveal_open.request_id, 'why', refusal)
                          || CASE WHEN refusal IS NULL THEN jsonb_build_object('items', r.items) ELSE '{}' END));
    RETURN NEXT;
END
$$;

-- Whether an opening is on the trail for good, belongs to this session's user, and is still open. Raises CC003 if not.
CREATE FUNCTION coatcheck.require_open(request_id bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM coatcheck.reveal_opening AS o JOIN coatcheck.reveal_request AS r USING (request_id)
        WHERE o.request_id = require_open.request_id AND r.requested_by = session_user AND o.fetched_at IS NULL
          AND o.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() AND pg_xact_status(o.xid) = 'committed'
          AND coatcheck.clock() BETWEEN o.opened_at AND o.closes_at
    ) THEN
        RAISE EXCEPTION 'the request is not open for this user' USING ERRCODE = 'CC003';
    END IF;
END
$$;

-- Hands out what an open request is for: the sealed originals of its tokens (of each epoch, the newest first) or its
-- sealed messages, once. If the caller's transaction is rolled back, it may be called again while the opening lasts.
CREATE FUNCTION coatcheck.reveal_fetch(request_id bigint)
    RETURNS TABLE (item text, epoch integer, form_id text, message_key uuid, nonce bytea, ciphertext bytea, dek_id uuid,
                   kek text, wrapped bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM coatcheck.reveal_request AS r WHERE r.request_id = reveal_fetch.request_id FOR UPDATE;
    PERFORM coatcheck.require_open(reveal_fetch.request_id);
    UPDATE coatcheck.reveal_opening AS o SET fetched_at = coatcheck.clock() WHERE o.request_id = reveal_fetch.request_id;
    RETURN QUERY
        SELECT i.item, v.epoch, f.form_id, NULL::uuid, v.nonce, v.ciphertext, k.dek_id, k.kek, k.wrapped
        FROM coatcheck.reveal_item AS i
        JOIN coatcheck.vault AS v ON v.token = i.item
        JOIN coatcheck.data_key AS k ON k.dek_id = v.dek_id
        LEFT JOIN coatcheck.form AS f ON f.domain = split_part(i.item, '_', 2) AND f.kid = split_part(i.item, '_', 3)
        WHERE i.request_id = reveal_fetch.request_id AND i.item NOT LIKE 'quarantine:%'
        UNION ALL
        SELECT i.item, NULL::integer, NULL::text, q.message_key, q.nonce, q.ciphertext, k.dek_id, k.kek, k.wrapped
        FROM coatcheck.reveal_item AS i
        JOIN coatcheck.quarantine AS q ON q.quarantine_id = split_part(i.item, ':', 2)::bigint AND q.state = 'held'
        JOIN coatcheck.data_key AS k ON k.dek_id = q.dek_id
        WHERE i.request_id = reveal_fetch.request_id AND i.item LIKE 'quarantine:%'
        ORDER BY 1, 2 DESC;
END
$$;

-- Puts on the trail what became of an opening: originals shown, not shown since they are not those of their tokens (a
-- loader has planted them), since they do not open (damaged), and gone since the request.
CREATE FUNCTION coatcheck.reveal_shown(request_id bigint, shown integer, planted integer, damaged integer, gone integer)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM coatcheck.reveal_opening AS o JOIN coatcheck.reveal_request AS r USING (request_id)
                   WHERE o.request_id = reveal_shown.request_id AND r.requested_by = session_user
                     AND o.fetched_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the request was not fetched by this user' USING ERRCODE = 'CC003';
    END IF;
    PERFORM coatcheck.record('reveal shown', jsonb_build_object('request', request_id, 'shown', shown,
                             'planted', planted, 'damaged', damaged, 'gone', gone));
END
$$;

-- The requests that this user may know of: approvers and auditors all, others their own; the newest first.
CREATE FUNCTION coatcheck.reveal_list(most integer DEFAULT 100)
    RETURNS TABLE (request_id bigint, state text, kind text, requested_by text, reason text, ticket text, items integer,
                   approvals integer, approved_by text[], break_glass boolean, review text, requested_at timestamptz,
                   expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    WHERE r.requested_by = session_user
       OR has_function_privilege(session_user, 'coatcheck.reveal_approve(bigint)', 'EXECUTE')
       OR has_table_privilege(session_user, 'coatcheck.audit', 'SELECT')
    ORDER BY r.request_id DESC
    LIMIT most
$$;

-- The items of a request, for whoever may know of it.
CREATE FUNCTION coatcheck.reveal_items(request_id bigint) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.item
    FROM coatcheck.reveal_item AS i JOIN coatcheck.reveal_request AS r USING (request_id)
    WHERE i.request_id = reveal_items.request_id
      AND (r.requested_by = session_user
           OR has_function_privilege(session_user, 'coatcheck.reveal_approve(bigint)', 'EXECUTE')
           OR has_table_privilege(session_user, 'coatcheck.audit', 'SELECT'))
    ORDER BY i.item
$$;

-- Puts on the trail that somebody looks up the token of a value that he knows; the value itself never comes here.
CREATE FUNCTION coatcheck.record_find(domain text, reason text, ticket text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    now_ timestamptz := coatcheck.clock();
BEGIN
    INSERT INTO coatcheck.reveal_request AS r (kind, requested_by, reason, ticket, items, approvals, break_glass,
                                               requested_at, expires_at)
    VALUES ('retry', session_user, 'RETRY', '', 0, 0, false, now_, now_ + interval '1 day')
    RETURNING r.request_id INTO request_id;
    INSERT INTO coatcheck.reveal_item (request_id, item)
    SELECT retry_open.request_id, 'quarantine:' || q.quarantine_id
    FROM coatcheck.quarantine AS q
    WHERE q.state = 'held' AND (retry_open.ids IS NULL OR q.quarantine_id = ANY (retry_open.ids))
      AND (retry_open.reason IS NULL OR q.reason = retry_open.reason);
    GET DIAGNOSTICS items = ROW_COUNT;
    UPDATE coatcheck.reveal_request AS r SET items = retry_open.items WHERE r.request_id = retry_open.request_id;
    INSERT INTO coatcheck.reveal_opening (request_id, xid, opened_at, closes_at)
    VALUES (retry_open.request_id, pg_current_xact_id(), now_, now_ + interval '1 day');
    PERFORM coatcheck.record('quarantine retry opened',
                             jsonb_build_object('request', retry_open.request_id, 'items', retry_open.items));
    RETURN NEXT;
END
$$;

-- A page of the sealed messages of an open retry, in the order of their ids.
CREATE FUNCTION coatcheck.retry_fetch(request_id bigint, after bigint, most integer)
    RETURNS TABLE (quarantine_id bigint, message_key uuid, message_id text, origin text, reason text, sent_ms bigint,
                   received_ms bigint, nonce bytea, ciphertext bytea, dek_id uuid, kek text, wrapped bytea)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM coatcheck.require_open(retry_fetch.request_id);
    RETURN QUERY
        SELECT q.quarantine_id, q.message_key, q.message_id, q.origin, q.reason,
               (extract(epoch FROM q.sent_at) * 1000)::bigint, (extract(epoch FROM q.received_at) * 1000)::bigint,
               q.nonce, q.ciphertext, k.dek_id, k.kek, k.wrapped
        FROM coatcheck.quarantine AS q JOIN coatcheck.data_key AS k ON k.dek_id = q.dek_id
        WHERE q.state = 'held' AND q.quarantine_id > retry_fetch.after
          AND EXISTS (SELECT FROM coatcheck.reveal_item AS i JOIN coatcheck.reveal_request AS r USING (request_id)
                      WHERE r.request_id = retry_fetch.request_id AND r.kind = 'retry'
                        AND i.item = 'quarantine:' || q.quarantine_id)
        ORDER BY q.quarantine_id
        LIMIT retry_fetch.most;
END
$$;

-- Gives held messages up: their bodies go, the entries stay as a record of who did it and when.
CREATE FUNCTION coatcheck.quarantine_discard(ids bigint[], reason text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
