"""The road on embedded servers: SQS and PostgreSQL as child processes, and sample logins to send down it."""
