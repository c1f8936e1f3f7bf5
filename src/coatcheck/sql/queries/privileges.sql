-- What the road does and this user may not: (verb, object) pairs that are missing. Looks names up in the catalogue: who
-- has no USAGE on a schema may not even cast a name in it to regclass, and is to be told of all that is missing at once.
WITH needed (verb, nspname, relname) AS (
    VALUES ('INSERT', 'coatcheck', 'ledger'), ('SELECT', 'coatcheck', 'ledger'), ('INSERT', 'coatcheck', 'data_key'),
           ('INSERT', 'coatcheck', 'quarantine'), ('INSERT', 'coatcheck', 'batch'), ('SELECT', 'coatcheck', 'migration')
)
SELECT 'USAGE', format('SCHEMA %%I', nspname)
FROM pg_namespace
WHERE nspname IN ('coatcheck', %(schema)s) AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'INSERT', ltrim(format('%%I.%%I', %(schema)s, %(name)s), '"".')
FROM pg_class
WHERE oid = {target} AND NOT has_table_privilege(oid, 'INSERT')
UNION ALL
SELECT verb, format('%%I.%%I', nspname, relname)
FROM needed NATURAL JOIN pg_namespace AS n JOIN pg_class AS c USING (relname)
WHERE relnamespace = n.oid AND NOT has_table_privilege(c.oid, verb)
