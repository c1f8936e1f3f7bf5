-- What the road does and this user may not: (verb, table) pairs that are missing.
SELECT verb, name
FROM (VALUES ('INSERT', %(table)s), ('INSERT', 'coatcheck.ledger'), ('SELECT', 'coatcheck.ledger'),
             ('INSERT', 'coatcheck.data_key'), ('INSERT', 'coatcheck.quarantine'), ('INSERT', 'coatcheck.batch'))
     AS needed (verb, name)
WHERE to_regclass(name) IS NOT NULL
  AND NOT (has_table_privilege(to_regclass(name), verb)
           AND (name NOT LIKE 'coatcheck.%%' OR has_schema_privilege('coatcheck', 'USAGE')))
