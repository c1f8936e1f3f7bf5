-- Approve another person's request.
SELECT refusal, figure FROM coatcheck.reveal_approve(%(request)s)
