-- Note how far the log has come, now that the opening has committed.
SELECT coatcheck.reveal_settle(%(request)s)
