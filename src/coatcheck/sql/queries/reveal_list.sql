-- The requests that this user may know of, the newest first.
SELECT request_id, state, kind, requested_by, reason, ticket, items, approvals, approved_by, break_glass, review,
       requested_at, expires_at
FROM coatcheck.reveal_list(%(most)s)
