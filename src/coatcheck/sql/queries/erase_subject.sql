-- The subject's rows, and how many of them have something in each column that stays.
SELECT count(*), {counts}
FROM {target} AS t
WHERE {subject} = %(subject)s::{type}
