"""Where rows go, one back end a folder."""
