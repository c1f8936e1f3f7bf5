-- Whether any row still has a text of a scheme and domain.
SELECT EXISTS (SELECT FROM {target} AS t WHERE starts_with({column}::text, %(prefix)s))
