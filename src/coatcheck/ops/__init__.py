"""Looking at the running thing."""
