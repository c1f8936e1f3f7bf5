-- Give the rows in a range of blocks the tokens under the active key, as far as their aliases are known.
UPDATE ONLY {target} AS t
SET {assignments}
WHERE t.ctid >= %(first)s::tid AND t.ctid < %(beyond)s::tid AND ({known})
