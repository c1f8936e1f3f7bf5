-- What the road does and this user may not: (verb, object) pairs that are missing, all at once. The catalogue is asked
-- by name: who lacks USAGE on a schema may not even turn a name in it into a regclass. Without a schema the search_path
-- decides. The target's columns may be granted one by one.
WITH needed (verb, schema, name) AS (
    VALUES ('INSERT', coalesce(%(schema)s, (SELECT nspname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                                            WHERE pg_class.oid = to_regclass(quote_ident(%(name)s)))), %(name)s),
           ('INSERT', 'coatcheck', 'ledger'), ('SELECT', 'coatcheck', 'ledger'), ('INSERT', 'coatcheck', 'data_key'),
           ('INSERT', 'coatcheck', 'quarantine'), ('INSERT', 'coatcheck', 'batch'), ('SELECT', 'coatcheck', 'migration'),
           ('INSERT', 'coatcheck', 'vault'), ('INSERT', 'coatcheck', 'alias'),
           ('SELECT', 'coatcheck', 'token_key'), ('SELECT', 'coatcheck', 'form'), ('SELECT', 'coatcheck', 'erased'),
           ('SELECT', 'coatcheck', 'pipeline'), ('SELECT', 'coatcheck', 'masked_column'), ('SELECT', 'coatcheck', 'database')
)
SELECT 'USAGE', format('SCHEMA %%I', nspname)
FROM pg_namespace
WHERE nspname IN (SELECT schema FROM needed) AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT verb, format('%%I.%%I', schema, name)
FROM needed JOIN pg_namespace AS n ON nspname = schema JOIN pg_class AS c ON relnamespace = n.oid AND relname = name
WHERE NOT has_table_privilege(c.oid, verb) AND schema = 'coatcheck'
UNION ALL
SELECT CASE WHEN count(*) FILTER (WHERE has_column_privilege(c.oid, a.attnum, verb)) = 0 THEN verb
            ELSE format('%%s (%%s)', verb, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                                         FILTER (WHERE NOT has_column_privilege(c.oid, a.attnum, verb))) END,
       format('%%I.%%I', schema, name)
FROM needed JOIN pg_namespace AS n ON nspname = schema JOIN pg_class AS c ON relnamespace = n.oid AND relname = name
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attname = ANY (%(columns)s::text[])
WHERE NOT has_table_privilege(c.oid, verb) AND schema <> 'coatcheck'
GROUP BY schema, name, verb, c.oid
HAVING NOT coalesce(bool_and(has_column_privilege(c.oid, a.attnum, verb)), false)
UNION ALL
SELECT DISTINCT 'USAGE', format('SEQUENCE %%I.%%I', sn.nspname, s.relname)  -- of a default that counts
FROM needed JOIN pg_namespace AS n ON n.nspname = schema JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = name
JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attname <> ALL (%(columns)s::text[])
JOIN pg_attrdef AS def ON def.adrelid = c.oid AND def.adnum = a.attnum
JOIN pg_depend AS d ON (d.classid, d.objid, d.refclassid) = ('pg_attrdef'::regclass, def.oid, 'pg_class'::regclass)
JOIN pg_class AS s ON s.oid = d.refobjid JOIN pg_namespace AS sn ON sn.oid = s.relnamespace
WHERE verb = 'INSERT' AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
UNION ALL
SELECT 'EXECUTE', format('FUNCTION coatcheck.%%s', signature)
FROM (VALUES ('using_key', 'using_key(text)'), ('register_keys', 'register_keys(text[],text[],text[],text[])'),
             ('register_seal_key', 'register_seal_key(text)')) AS f (name, signature)
JOIN pg_proc AS p ON p.proname = f.name JOIN pg_namespace AS n ON p.pronamespace = n.oid AND n.nspname = 'coatcheck'
WHERE NOT has_function_privilege(p.oid, 'EXECUTE')
