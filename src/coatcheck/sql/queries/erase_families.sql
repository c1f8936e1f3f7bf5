-- While a rotation lasts a value has several texts: each text given, with its successor under the active key, and with all
-- that have the same successor. Without an alias it stands alone.
WITH newest (text, newest) AS (
    SELECT given.text, coalesce(a.new_token, given.text)
    FROM unnest(%(texts)s::text[]) AS given (text)
    LEFT JOIN coatcheck.alias AS a ON a.old_token = given.text
)
SELECT text, text FROM newest
UNION
SELECT text, newest FROM newest
UNION
SELECT text, a.old_token FROM newest JOIN coatcheck.alias AS a ON a.new_token = newest
