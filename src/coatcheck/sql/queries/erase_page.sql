-- A page of the subject's rows that still have something to erase, locked, with their masked columns.
SELECT t.tableoid::bigint, t.ctid::text, {texts}
FROM {target} AS t
WHERE {subject} = %(subject)s::{type} AND ({any})
LIMIT %(limit)s
FOR NO KEY UPDATE
