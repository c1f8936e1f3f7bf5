-- Whether tokens were here before the register, and the pipeline that wrote them is not on it yet.
SELECT d.adopted AND NOT EXISTS (SELECT FROM coatcheck.pipeline WHERE pipeline = 'default') FROM coatcheck.database AS d
