-- Put tombstones in place of texts, in one column. Runs under the login's search_path, for triggers: all is qualified.
UPDATE {target} AS t SET {column} = {tombstone} WHERE {text} OPERATOR(pg_catalog.=) ANY (%(texts)s::pg_catalog.text[])
