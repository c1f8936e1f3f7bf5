-- Register a masked column of a pipeline.
INSERT INTO coatcheck.masked_column (pipeline, relation, column_name, attnum, scheme, domain, mask, type, path, parse,
                                     casefold, strip_chars, vault)
SELECT %(pipeline)s, c.oid, a.attname, a.attnum, %(scheme)s, %(domain)s, %(mask)s, %(type)s, %(path)s::text[], %(parse)s,
       %(casefold)s, %(strip_chars)s, %(vault)s
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
ON CONFLICT (pipeline, relation, column_name, scheme, domain) DO UPDATE
SET mask = excluded.mask, type = excluded.type, path = excluded.path, parse = excluded.parse,
    casefold = excluded.casefold, strip_chars = excluded.strip_chars, vault = excluded.vault, attnum = excluded.attnum,
    left_at = NULL
