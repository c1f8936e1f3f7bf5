-- While a rotation lasts a value has several texts: each text given, with its successor under the active key, and with all
-- that have the same successor. Without an alias it stands alone. Only aliases between two keys in use count: others no
-- rotation has made.
WITH links (old_token, new_token) AS (
    SELECT a.old_token, a.new_token
    FROM coatcheck.alias AS a
    JOIN coatcheck.token_key AS o ON o.kid = split_part(a.old_token, '_', 3) AND o.state = 'in use'
    JOIN coatcheck.token_key AS n ON n.kid = split_part(a.new_token, '_', 3) AND n.state = 'in use'
), newest (text, newest) AS (
    SELECT given.text, coalesce(a.new_token, given.text)
    FROM unnest(%(texts)s::text[]) AS given (text)
    LEFT JOIN links AS a ON a.old_token = given.text
)
SELECT text, text FROM newest
UNION
SELECT text, newest FROM newest
UNION
SELECT text, a.old_token FROM newest JOIN links AS a ON a.new_token = newest
