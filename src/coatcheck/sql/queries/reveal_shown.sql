-- Put on the trail what became of an opening.
SELECT coatcheck.reveal_shown(%(request)s, %(shown)s, %(planted)s, %(damaged)s, %(gone)s)
