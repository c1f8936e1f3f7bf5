"""coatcheck: JSON messages from Amazon SQS into PostgreSQL, personal data checked at the door."""

__version__ = "0.1.0"
