-- Register a masked column of a pipeline.
INSERT INTO coatcheck.masked_column (pipeline, table_schema, table_name, column_name, scheme, domain, mask, type, path,
                                     parse, casefold, strip_chars, vault)
VALUES (%(pipeline)s, %(schema)s, %(table)s, %(column)s, %(scheme)s, %(domain)s, %(mask)s, %(type)s, %(path)s::text[],
        %(parse)s, %(casefold)s, %(strip_chars)s, %(vault)s)
ON CONFLICT (pipeline, table_schema, table_name, column_name, scheme, domain) DO UPDATE
SET mask = excluded.mask, type = excluded.type, path = excluded.path, parse = excluded.parse,
    casefold = excluded.casefold, strip_chars = excluded.strip_chars, vault = excluded.vault, configured = true
