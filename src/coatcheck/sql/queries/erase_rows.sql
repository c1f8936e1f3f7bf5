-- Put tombstones in place of texts, in one column.
UPDATE {target} AS t SET {column} = {tombstone} WHERE {text} = ANY (%(texts)s::text[])
