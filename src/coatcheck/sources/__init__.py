"""Where messages come from, one back end a module."""
