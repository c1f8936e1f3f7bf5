-- Which of these token keys are retired.
SELECT kid FROM coatcheck.token_key WHERE state = 'retired' AND kid = ANY (%(kids)s::text[])
