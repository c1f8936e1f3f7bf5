"""Who may do what, written down here by hand, against what PostgreSQL says of every object there is, on both versions.

Whoever adds a table, a view, a function or a privilege has to write it down here a second time.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg import errors
from tests.support.fix_servers import LoginDatabase

from coatcheck.config import Config
from coatcheck.sinks.postgres import current_view, schema
from coatcheck.sinks.postgres.roles import PREFIX, ROLES

TABLE = Config().target.table
VIEW = f"{TABLE}_current"
NOBODY = "nobody"
"""A login without any role."""

VERBS = {
    "s": "SELECT", "i": "INSERT", "u": "UPDATE", "d": "DELETE", "t": "TRUNCATE", "r": "REFERENCES", "g": "TRIGGER",
}  # fmt: skip
OF_COLUMNS = ("SELECT", "INSERT", "UPDATE", "REFERENCES")

RELATIONS = """
relation             owner   loader operator analyst revealer approver auditor eraser rotator nobody
migration            siudtrg s      s        -       s        s        s       s      s       -
ledger               siudtrg si     si       -       -        -        -       -      -       -
ledger_*             siudtrg -      -        -       -        -        -       -      -       -
data_key             siudtrg i      i        -       -        -        -       -      si      -
quarantine           siudtrg i      i        -       -        -        -       -      -       -
batch                siudtrg i      si       -       -        -        -       -      -       -
token_key            siudtrg s      s        -       s        -        -       s      s       -
database             siudtrg s      s        -       s        s        s       s      s       -
pipeline             siudtrg s      s        -       s        s        s       s      s       -
masked_column        siudtrg s      s        -       s        s        s       s      s       -
seal_key             siudtrg s      s        -       s        s        s       s      s       -
form                 siudtrg s      s        -       s        -        -       s      s       -
vault                siudtrg i      i        -       -        -        -       -      sid     -
vault_*              siudtrg -      -        -       -        -        -       -      -       -
alias                siudtrg i      i        -       -        -        -       s      sid     -
audit                siudtrg -      -        -       -        -        s       -      -       -
policy               siudtrg -      -        -       s        s        s       s      -       -
reveal_request       siudtrg -      -        -       -        -        s       -      -       -
reveal_item          siudtrg -      -        -       -        -        s       -      -       -
reveal_approval      siudtrg -      -        -       -        -        s       -      -       -
reveal_opening       siudtrg -      -        -       -        -        s       -      -       -
erased               siudtrg s      s        -       -        -        -       -      -       -
user_logins          -       i      i        s       -        -        -       s      s       -
user_logins_current  -       -      -        s       -        -        -       s      siudtrg -
"""

COLUMNS = {
    ("operator", "quarantine", "SELECT"): {
        "quarantine_id", "pipeline", "message_key", "message_id", "origin", "reason", "detail", "sent_at",
        "received_at", "quarantined_at", "state", "attempts", "resolved_at", "resolved_by",
    },
    ("eraser", "quarantine", "SELECT"): {"quarantine_id", "state"},
    ("eraser", TABLE, "UPDATE"): {"masked_ip", "masked_device_id"},
    ("rotator", TABLE, "UPDATE"): {"masked_ip", "masked_device_id"},
    ("rotator", "data_key", "UPDATE"): {"kek", "wrapped"},
    ("rotator", "token_key", "UPDATE"): {"state", "changed_at"},
}  # fmt: skip
"""What is allowed of some columns only."""

FUNCTIONS = {
    "prune(integer)": {"loader", "operator"},
    "figures()": {"loader", "operator"},
    "figures(text)": {"loader", "operator"},
    "register_seal_key(text)": {"loader", "operator", "rotator"},
    "add_seal_key(text)": {"rotator"},
    "retire_seal_key(text)": {"rotator"},
    "retry_open(bigint[],text,text)": {"operator"},
    "quarantine_discard(bigint[],text,text)": {"operator"},
    "make_epochs(integer[])": {"loader", "operator"},
    "using_key(text)": {"loader", "operator", "rotator"},
    "framed(text[])": {"auditor"},
    "audit_hash(bytea,bigint,bigint,text,text,text)": {"auditor"},
    "audit_append(text,text)": set(),
    "clock()": set(),
    "record(text,jsonb)": set(),
    "key_event(text,text)": {"rotator"},
    "set_policy(text,text)": set(),
    "unreasonable(text,text)": set(),
    "reveal_state(coatcheck.reveal_request,timestamp with time zone)": set(),
    "reveal_request(text[],text,text,boolean)": {"revealer"},
    "reveal_open(bigint)": {"revealer"},
    "reveal_fetch(bigint)": {"revealer"},
    "reveal_shown(bigint,integer,integer,integer,integer)": {"revealer"},
    "reveal_approve(bigint)": {"approver"},
    "reveal_deny(bigint)": {"revealer", "approver"},
    "reveal_list(integer)": {"revealer", "approver", "auditor"},
    "reveal_items(bigint)": {"revealer", "approver", "auditor"},
    "require_open(bigint,boolean)": set(),
    "require_retry(bigint,bigint)": set(),
    "me()": set(),
    "reveal_settle(bigint)": {"revealer", "operator"},
    "register_keys(text[],text[],text[],text[])": {"loader", "operator", "rotator"},
    "record_find(text,text,text)": {"revealer"},
    "retry_open(bigint[],text)": {"operator"},
    "retry_fetch(bigint,bigint,integer)": {"operator"},
    "retry_loaded(bigint,bigint)": {"operator"},
    "retry_rejected(bigint,bigint,text,text)": {"operator"},
    "quarantine_discard(bigint[],text)": {"operator"},
    "only_figures(jsonb)": set(),
    "require_erasure(bigint)": set(),
    "erase_begin(text,text,text,jsonb)": {"eraser"},
    "erase_tokens(bigint,text[])": {"eraser"},
    "erase_end(bigint,jsonb)": {"eraser"},
    "erase_epoch(bigint,integer)": {"eraser"},
}
"""Who may execute what, beside the owner."""

AS_THE_CALLER = {
    "framed(text[])", "audit_hash(bytea,bigint,bigint,text,text,text)", "clock()", "record(text,jsonb)",
    "unreasonable(text,text)", "reveal_state(coatcheck.reveal_request,timestamp with time zone)",
    "require_open(bigint,boolean)", "require_retry(bigint,bigint)", "only_figures(jsonb)", "require_erasure(bigint)",
    "me()",
}  # fmt: skip
"""The functions that give no rights away; all others run as the owner."""

SCHEMAS = {
    ("coatcheck", "USAGE"): set(ROLES) - {"analyst"},
    ("coatcheck", "CREATE"): {"owner"},
    ("public", "USAGE"): {*ROLES, NOBODY},
    ("public", "CREATE"): {"rotator"},
}
MEMBERS = {("operator", "loader")}
"""Roles that are in others."""


@pytest.fixture
def migrated(any_database: LoginDatabase) -> LoginDatabase:
    """A database in which everything is there that there can be: the view of a rotation, a login without a role."""
    current_view.make_view(any_database.dsn, f"public.{TABLE}", Config().plan())
    assert schema.migrate(any_database.dsn, TABLE, Config().plan()) == schema.Migrated()
    any_database.role()
    return any_database


def grantees(database: LoginDatabase) -> dict[str, str]:
    """Return PostgreSQL's names of the roles of the matrix."""
    return {role: PREFIX + role for role in ROLES} | {NOBODY: database.roles[0]}


def matrix() -> dict[str, dict[str, set[str]]]:
    """Return relation -> role -> verbs."""
    [_, *roles], *rows = (line.split() for line in RELATIONS.strip().splitlines())
    assert roles == [*ROLES, NOBODY]
    return {
        name: {
            role: {VERBS[letter] for letter in letters.strip("-")} for role, letters in zip(roles, cells, strict=True)
        }
        for name, *cells in rows
    }


def family(name: str) -> str:
    """Return the row of the matrix for a relation: partitions share one."""
    return re.sub(r"^(ledger_(\d+|forever)|vault_(\d+|other))$", lambda found: found[0].partition("_")[0] + "_*", name)


# --- by the catalogue -------------------------------------------------------------------------------------------------

OURS = "relnamespace IN ('coatcheck'::regnamespace, 'public'::regnamespace) AND relkind NOT IN ('i', 'I', 'S')"


def test_relations(migrated: LoginDatabase) -> None:
    relations = [name for (name,) in migrated.execute(f"SELECT relname FROM pg_class WHERE {OURS}")]
    expected = matrix()
    assert {family(name) for name in relations} == expected.keys()
    back = {name: role for role, name in grantees(migrated).items()}
    held = migrated.execute(
        "SELECT relname, role, verb FROM pg_class AS c, unnest(%s::text[]) AS role, unnest(%s::text[]) AS verb"
        f" WHERE {OURS} AND has_table_privilege(role, c.oid, verb)",
        list(back), list(VERBS.values()),
    )  # fmt: skip
    wanted = {(n, role, verb) for n in relations for role, verbs in expected[family(n)].items() for verb in verbs}
    assert {(name, back[role], verb) for name, role, verb in held} ^ wanted == set()
    sequences = migrated.execute(
        "SELECT DISTINCT role FROM pg_class AS c, unnest(%s::text[]) AS role, unnest(%s::text[]) AS verb"
        " WHERE relnamespace = 'coatcheck'::regnamespace AND relkind = 'S'"
        " AND has_sequence_privilege(role, c.oid, verb)",
        list(back), ["USAGE", "SELECT", "UPDATE"],
    )  # fmt: skip
    assert sequences == [("coatcheck_owner",)]


def test_columns(migrated: LoginDatabase) -> None:
    back = {name: role for role, name in grantees(migrated).items()}
    held = migrated.execute(
        "SELECT relname, role, verb, attname"
        " FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attnum > 0,"
        " unnest(%s::text[]) AS role, unnest(%s::text[]) AS verb"
        f" WHERE {OURS} AND NOT has_table_privilege(role, c.oid, verb)"
        " AND has_column_privilege(role, c.oid, attnum, verb)",
        list(back), list(OF_COLUMNS),
    )  # fmt: skip
    found: dict[tuple[str, str, str], set[str]] = {}
    for name, role, verb, field in held:
        found.setdefault((back[role], name, verb), set()).add(field)
    assert found == COLUMNS


def test_functions(migrated: LoginDatabase) -> None:
    there = migrated.execute(
        "SELECT oid::regprocedure::text, prosecdef, proconfig, pg_get_userbyid(proowner) FROM pg_proc"
        " WHERE pronamespace = 'coatcheck'::regnamespace"
    )
    assert {name.removeprefix("coatcheck.") for name, *_ in there} == FUNCTIONS.keys()
    for full, definer, settings, owner in there:
        name = full.removeprefix("coatcheck.")
        assert definer == (name not in AS_THE_CALLER), name
        assert "search_path=pg_catalog, pg_temp" in settings, name
        assert owner == "coatcheck_owner", name
        for role, grantee in grantees(migrated).items():
            [(may,)] = migrated.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", grantee, full)
            assert may == (role in FUNCTIONS[name] | {"owner"}), (role, name)


def test_schemas_owners_and_the_roles_themselves(migrated: LoginDatabase) -> None:
    """The roles are groups, without a power of their own; everything in the schema belongs to one of them."""
    held = {
        (name, verb): {
            role
            for role, grantee in grantees(migrated).items()
            if migrated.value("SELECT has_schema_privilege(%s, %s, %s)", grantee, name, verb)
        }
        for name, verb in SCHEMAS
    }
    assert held == SCHEMAS
    for grantee in grantees(migrated).values():
        assert not migrated.value("SELECT has_database_privilege(%s, current_database(), 'CREATE')", grantee)
    owners = migrated.execute(
        "SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'coatcheck'::regnamespace"
        " UNION SELECT typowner::regrole::text FROM pg_type WHERE typnamespace = 'coatcheck'::regnamespace"
        " UNION SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'coatcheck'"
    )
    assert owners == [("coatcheck_owner",)]
    assert migrated.value(f"SELECT relowner::regrole FROM pg_class WHERE relname = '{VIEW}'") == "coatcheck_rotator"
    powers = "rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
    found = migrated.execute(f"SELECT rolname, {powers} FROM pg_roles WHERE starts_with(rolname, %s)", PREFIX)
    assert dict(found) == dict.fromkeys((PREFIX + role for role in ROLES), False)
    inside = migrated.execute(
        "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members"
        " WHERE starts_with(member::regrole::text, %s) OR roleid = 'coatcheck_owner'::regrole",
        PREFIX,
    )
    assert {(member.removeprefix(PREFIX), role.removeprefix(PREFIX)) for member, role in inside} == MEMBERS


# --- by trying --------------------------------------------------------------------------------------------------------

READ = [f"SELECT FROM coatcheck.{name}" for name in ("vault", "data_key", "alias", "audit", "quarantine", "erased")]
CHANGE_THE_TRAIL = [
    "INSERT INTO coatcheck.audit VALUES (1, 1, 'a', 'b', 'c', sha256(''))",
    "UPDATE coatcheck.audit SET detail = ''",
    "DELETE FROM coatcheck.audit",
    "TRUNCATE coatcheck.audit",
    "SELECT coatcheck.audit_append('a', '{}')",
    "SELECT coatcheck.record('a', '{}')",
]
RULE = [
    "SELECT coatcheck.set_policy('one_person', 'true')",
    "UPDATE coatcheck.policy SET one_person = true",
    "CREATE FUNCTION coatcheck.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION coatcheck.clock() RETURNS timestamptz LANGUAGE sql AS $$ SELECT now() $$",
    "ALTER FUNCTION coatcheck.clock() RESET ALL",
    "ALTER TABLE coatcheck.audit DISABLE TRIGGER ALL",
    "CREATE TRIGGER mine BEFORE UPDATE ON coatcheck.audit EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DROP SCHEMA coatcheck CASCADE",
    "SET ROLE coatcheck_owner",
    "SET SESSION AUTHORIZATION postgres",
    "GRANT coatcheck_owner TO CURRENT_USER",
]
FETCH = [
    "SELECT coatcheck.reveal_fetch(1)",
    "SELECT coatcheck.reveal_open(1)",
    "SELECT coatcheck.reveal_request('{a}', 'LEGAL', 'CASE-1')",
    "SELECT coatcheck.require_open(1, false)",
    "SELECT coatcheck.retry_fetch(1, 0, 1)",
    "SELECT coatcheck.retry_open(NULL, NULL)",
]
APPROVE = ["SELECT coatcheck.reveal_approve(1)", "INSERT INTO coatcheck.reveal_approval VALUES (1, 'a', 1, now())"]
ERASE = [
    "SELECT coatcheck.erase_tokens(1, '{a}')",
    "SELECT coatcheck.erase_epoch(1, 2020)",
    "DELETE FROM coatcheck.vault",
    "UPDATE coatcheck.erased SET erasures = 0",
]
KEYS = ["SELECT coatcheck.key_event('rotation asked', '{}')", "UPDATE coatcheck.token_key SET state = 'in use'"]
TARGET = [f"SELECT FROM {TABLE}", f"DELETE FROM {TABLE}", f"UPDATE {TABLE} SET masked_ip = NULL", f"TRUNCATE {TABLE}"]
QUARANTINE = [
    "SELECT nonce FROM coatcheck.quarantine",
    "SELECT ciphertext FROM coatcheck.quarantine",
    "SELECT dek_id FROM coatcheck.quarantine",
    "UPDATE coatcheck.quarantine SET ciphertext = NULL",
]


def but(statements: list[str], *allowed: str) -> list[str]:
    """Return the statements without those that name what is allowed."""
    return [statement for statement in statements if not any(word in statement for word in allowed)]


DENIED = {
    "loader": [
        *but(READ, "erased"), *FETCH, *APPROVE, *ERASE, *KEYS, *TARGET, *QUARANTINE,
        "SELECT coatcheck.quarantine_discard(NULL, NULL)", "DELETE FROM coatcheck.ledger",
        "INSERT INTO coatcheck.vault VALUES ('a', 1, gen_random_uuid(), '', '') RETURNING token",
    ],
    "operator": [
        *but(READ, "erased", "quarantine"), *but(FETCH, "retry_"), *APPROVE, *ERASE, *KEYS, *TARGET, *QUARANTINE,
    ],
    "analyst": [
        *READ, *FETCH, *APPROVE, *ERASE, *KEYS, *but(TARGET, "SELECT"), *QUARANTINE,
        "SELECT FROM coatcheck.migration", "SELECT coatcheck.reveal_list()", f"INSERT INTO {TABLE} DEFAULT VALUES",
    ],
    "revealer": [
        *READ, *but(FETCH, "reveal_"), *APPROVE, *ERASE, *KEYS, *TARGET, *QUARANTINE,
        "UPDATE coatcheck.reveal_request SET approvals = 0", "INSERT INTO coatcheck.vault SELECT",
        f"INSERT INTO {TABLE} DEFAULT VALUES",
    ],
    "approver": [
        *READ, *FETCH, *but(APPROVE, "coatcheck.reveal_approve"), *ERASE, *KEYS, *TARGET, *QUARANTINE,
        "UPDATE coatcheck.reveal_request SET approvals = 0",
    ],
    "auditor": [
        *but(READ, "audit"), *FETCH, *APPROVE, *ERASE, *KEYS, *TARGET, *QUARANTINE,
        "DELETE FROM coatcheck.reveal_request", "SELECT coatcheck.reveal_deny(1)",
    ],
    "eraser": [
        *but(READ, "alias", "quarantine"), *FETCH, *APPROVE, *but(ERASE, "erase_"), *KEYS, *QUARANTINE,
        *but(TARGET, "SELECT", "UPDATE"), f"UPDATE {TABLE} SET user_id = NULL", "DELETE FROM coatcheck.alias",
    ],
    "rotator": [
        *but(READ, "vault", "data_key", "alias"), *FETCH, *APPROVE, *but(ERASE, "DELETE"), *QUARANTINE,
        f"DELETE FROM {TABLE}", f"TRUNCATE {TABLE}", f"UPDATE {TABLE} SET user_id = NULL",
        "UPDATE coatcheck.token_key SET fingerprint = ''", "UPDATE coatcheck.vault SET ciphertext = ''",
        "DELETE FROM coatcheck.data_key", "DELETE FROM coatcheck.token_key",
    ],
    NOBODY: [*READ, *FETCH, *APPROVE, *ERASE, *KEYS, *TARGET, *QUARANTINE, "SELECT FROM coatcheck.migration"],
}  # fmt: skip
"""What a login with this one role tries in vain, beside CHANGE_THE_TRAIL and RULE, which nobody may."""


def refusal(connection: psycopg.Connection[Any], statement: str) -> str:
    """Try a statement, and take it back; return the SQLSTATE, "" if it is allowed."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""


def test_denied(migrated: LoginDatabase) -> None:
    assert set(DENIED) == {*ROLES, NOBODY} - {"owner"}
    wrong = []
    for role, statements in DENIED.items():
        dsn = migrated.role(*([] if role == NOBODY else [PREFIX + role]))
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in [*statements, *CHANGE_THE_TRAIL, *RULE]:
                code = refusal(connection, statement)
                if code != errors.InsufficientPrivilege.sqlstate:
                    wrong.append((role, statement, code))
    assert wrong == []
    assert migrated.count("coatcheck.audit") == 0


def test_the_trail_takes_no_other_events_of_a_rotator(migrated: LoginDatabase) -> None:
    with psycopg.connect(migrated.role("coatcheck_rotator"), autocommit=True) as connection:
        assert connection.execute("SELECT coatcheck.key_event('rotation asked', '{}')").fetchone() == (1,)
        for event in ("reveal approved", "policy changed", "tokens erased", "", "Rotation asked", "rotation asked "):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute("SELECT coatcheck.key_event(%s, '{}')", [event])
            assert caught.value.sqlstate == "CC002"
    assert migrated.execute("SELECT actor, event FROM coatcheck.audit") == [(migrated.roles[-1], "rotation asked")]


def test_the_owner_sets_the_policy_and_may_be_anybody(migrated: LoginDatabase) -> None:
    with psycopg.connect(migrated.role("coatcheck_owner"), autocommit=True) as connection:
        assert connection.execute("SELECT coatcheck.set_policy('daily_items', '7')").fetchone() == (None,)
    assert migrated.value("SELECT daily_items FROM coatcheck.policy") == 7
    assert migrated.execute("SELECT actor, event FROM coatcheck.audit") == [(migrated.roles[-1], "policy changed")]


# --- objects named like ours ------------------------------------------------------------------------------------------

SPRUNG = "CX666"
TRAP = f"RAISE EXCEPTION 'sprung' USING ERRCODE = '{SPRUNG}'"
FAKES = f"""
CREATE SCHEMA mine;
CREATE FUNCTION mine.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.sha256(bytea) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.hashtext(text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.format(text, integer) RETURNS text LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.cardinality(text[]) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.cardinality(integer[]) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.audit_append(text, text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.plus(bigint, integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE FUNCTION mine.joined(bytea, bytea) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN {TRAP}; END $$;
CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same);
CREATE OPERATOR mine.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same);
CREATE OPERATOR mine.+ (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = mine.plus);
CREATE OPERATOR mine.|| (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mine.joined);
CREATE TYPE mine.audit AS (seq text);
CREATE TYPE mine.policy AS (one_person text);
GRANT USAGE ON SCHEMA mine TO PUBLIC;
"""
SHADOWS = (
    "CREATE TEMP TABLE audit (LIKE pg_class); CREATE TEMP TABLE policy (one_person boolean);"
    "CREATE TEMP TABLE vault (token text); CREATE TEMP TABLE token_key (kid text);"
    "CREATE TEMP TABLE vault_other (epoch int); CREATE TEMP TABLE batch (committed_at timestamptz);"
    "CREATE TEMP TABLE reveal_request (request_id bigint); CREATE TEMP TABLE pg_inherits (inhrelid oid, inhparent oid);"
    "CREATE TEMP TABLE pg_attribute (attname text); CREATE TEMP TABLE pg_proc (oid oid);"
    "SET search_path = mine, pg_temp, public, pg_catalog"
)
TRIED = {
    "coatcheck_loader": [
        "SELECT coatcheck.using_key('k1')", "SELECT coatcheck.make_epochs('{2031}')", "SELECT coatcheck.prune()",
    ],
    "coatcheck_operator": [
        "SELECT coatcheck.retry_open(NULL, NULL)", "SELECT coatcheck.quarantine_discard(NULL, 'none')",
    ],
    "coatcheck_revealer": [
        "SELECT coatcheck.reveal_request('{pt1_d_k1_0000000000000000000000000000000000000000}', 'LEGAL', 'CASE-1')",
        "SELECT coatcheck.reveal_open(1)", "SELECT coatcheck.record_find('ip', 'LEGAL', 'CASE-1')",
        "SELECT coatcheck.reveal_list()", "SELECT coatcheck.reveal_items(1)",
    ],
    "coatcheck_approver": ["SELECT coatcheck.reveal_approve(1)", "SELECT coatcheck.reveal_deny(1)"],
    "coatcheck_rotator": ["SELECT coatcheck.key_event('key retired', '{}')"],
    "coatcheck_eraser": [
        "SELECT coatcheck.erase_begin('token', 'DSAR', 'CASE-1', '{}')",
        "SELECT coatcheck.erase_tokens(BEGUN, '{pt1_a}')", "SELECT coatcheck.erase_epoch(BEGUN, 2020)",
        "SELECT coatcheck.erase_end(BEGUN, '{}')",
    ],
    "coatcheck_owner": ["SELECT coatcheck.set_policy('one_person', 'false')"],
}  # fmt: skip
"""Every function that runs as the owner, but for the two that need an open request, by one who may call it."""


def test_objects_named_like_ours_are_not_taken(migrated: LoginDatabase) -> None:
    """Those of the caller, in a schema of his own, in pg_temp, and before pg_catalog on his search_path."""
    migrated.execute(FAKES)
    for role, statements in TRIED.items():
        dsn = migrated.role(role, f"TEMP ON DATABASE {migrated.name}")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SHADOWS.encode())
            assert refusal(connection, "SELECT clock_timestamp()") == SPRUNG
            for statement in statements:
                begun = migrated.value("SELECT max(seq) FROM coatcheck.audit WHERE event = 'erasure begun'")
                connection.execute(statement.replace("BEGUN", str(begun)).encode())
    before = bytes(32)
    for seq, at_us, actor, event, detail, digest in migrated.execute("SELECT * FROM coatcheck.audit ORDER BY seq"):
        [(before,)] = migrated.execute(
            "SELECT coatcheck.audit_hash(%s, %s, %s, %s, %s, %s)", before, seq, at_us, actor, event, detail
        )
        assert digest == before
    assert migrated.count("coatcheck.audit") > 10
