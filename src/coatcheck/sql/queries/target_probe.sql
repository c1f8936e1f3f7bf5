-- Asks PostgreSQL itself whether it would take rows in the way in which the loader writes them (write_batch.sql), without
-- running anything: types, generated columns, rules, views and the rights behind them.
EXPLAIN WITH loaded AS (
    INSERT INTO {target} ({columns})
    SELECT {fields}
    FROM ROWS FROM ({arrays}) WITH ORDINALITY AS batch ({names}, place)
    ORDER BY place
    RETURNING 1
)
SELECT count(*) FROM loaded
