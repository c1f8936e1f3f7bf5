-- What the desk allows.
SELECT reasons, ticket_pattern, single_items, most_items, daily_items, request_minutes, opening_minutes, review_hours,
       one_person, break_glass
FROM coatcheck.policy
