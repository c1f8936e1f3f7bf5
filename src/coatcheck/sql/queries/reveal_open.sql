-- Put the opening of an approved request on the trail.
SELECT kind, refusal, figure FROM coatcheck.reveal_open(%(request)s)
