-- Namesakes of what PostgreSQL has, in a schema of somebody else's: whatever is called there raises TRAPS.
SET search_path = pg_catalog;
CREATE SCHEMA IF NOT EXISTS {schema};
GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
CREATE FUNCTION {schema}.spring(what text) RETURNS boolean LANGUAGE plpgsql AS
    $_$ BEGIN RAISE EXCEPTION USING MESSAGE = 'a trap: ' || what, ERRCODE = 'TRAPS'; END $_$;
DO $do$
DECLARE
    words text[] := '{words}';
    body constant text := ' LANGUAGE plpgsql AS $_$ BEGIN RAISE EXCEPTION USING MESSAGE = %L, ERRCODE = ''TRAPS''; END $_$';
    one record;
    types text;
BEGIN
    FOR one IN  -- functions, aggregates and window functions, with the arguments that PostgreSQL's own have
        SELECT p.oid, p.proname, p.pronargs, p.provariadic, oidvectortypes(p.proargtypes) AS arguments,
               format_type(p.prorettype, NULL) AS result, p.proretset
        FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (words)
    LOOP
        IF one.provariadic <> 0 THEN
            FOR n IN 1 .. 6 LOOP
                FOREACH types IN ARRAY ARRAY['text', 'name'] LOOP
                    BEGIN
                        EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS text', one.proname,
                                       array_to_string(array_fill(types, ARRAY[n]), ', '))
                                || format(body, 'a trap: ' || one.proname);
                    EXCEPTION WHEN others THEN NULL;
                    END;
                END LOOP;
            END LOOP;
        END IF;
        BEGIN
            EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS %s %s', one.proname,
                           replace(one.arguments, '"any"', 'anyelement'),
                           CASE WHEN one.proretset THEN 'SETOF' ELSE '' END, one.result) || format(body, 'a trap: ' || one.proname);
        EXCEPTION WHEN others THEN NULL;  -- of internal types, which no function of a user's has
        END;
    END LOOP;
    FOR one IN  -- operators
        SELECT o.oprname, o.oprleft, o.oprright, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r,
               format_type(o.oprresult, NULL) AS result, row_number() OVER () AS n
        FROM pg_operator AS o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION {schema}.%I(%s, %s) RETURNS %s', 'operator_' || one.n, one.l, one.r, one.result)
                    || format(body, 'a trap: operator ' || one.oprname);
            EXECUTE format('CREATE OPERATOR {schema}.%s (FUNCTION = {schema}.%I, LEFTARG = %s, RIGHTARG = %s)',
                           one.oprname, 'operator_' || one.n, one.l, one.r);
        EXCEPTION WHEN others THEN NULL;
        END;
    END LOOP;
    FOR one IN  -- tables and views of the catalogue
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname = ANY (words)
    LOOP
        BEGIN
            EXECUTE format('CREATE VIEW {schema}.%I AS SELECT * FROM pg_catalog.%I WHERE {schema}.spring(%L)',
                           one.relname, one.relname, one.relname);
            EXECUTE format('GRANT SELECT ON {schema}.%I TO PUBLIC', one.relname);
        EXCEPTION WHEN others THEN NULL;
        END;
    END LOOP;
    FOR one IN  -- types
        SELECT t.typname FROM pg_type AS t
        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typname = ANY (words)
    LOOP
        EXECUTE format('CREATE DOMAIN {schema}.%I AS pg_catalog.%I CHECK ({schema}.spring(%L))',
                       one.typname, one.typname, 'type ' || one.typname);
    END LOOP;
END
$do$
