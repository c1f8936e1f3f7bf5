-- Which of the texts a row still has.
SELECT DISTINCT held.text
FROM {target} AS t CROSS JOIN LATERAL unnest(ARRAY[{texts}]) AS held (text)
WHERE ({any}) AND held.text = ANY (%(texts)s::text[])
