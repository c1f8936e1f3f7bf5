"""The PostgreSQL sink: arrays, the sink itself, schema, quarantine."""
