-- How many rows still have a text under the key that retires, for each column.
SELECT {counts} FROM {target} AS t
