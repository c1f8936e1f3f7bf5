-- Begin an erasure on the audit trail; a refusal of the policy comes back as a word.
SELECT erasure_id, refusal
FROM coatcheck.erase_begin(%(how)s::text, %(reason)s::text, %(ticket)s::text, %(figures)s::jsonb)
