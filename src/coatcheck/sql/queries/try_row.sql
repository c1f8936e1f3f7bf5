-- A row that was loaded before, inserted again to see whether the table still takes such rows; always rolled back.
INSERT INTO {target} ({columns})
SELECT {fields} FROM ROWS FROM ({arrays}) AS batch ({names})
