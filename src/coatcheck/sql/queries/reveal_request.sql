-- Ask for originals.
SELECT request_id, refusal, figure
FROM coatcheck.reveal_request(%(items)s::text[], %(reason)s, %(ticket)s, %(break_glass)s)
