-- Deny a request, or take one's own back.
SELECT coatcheck.reveal_deny(%(request)s)
