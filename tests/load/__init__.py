"""A database as a busy site has it: what each endpoint, page and round of work costs there, and by which plan."""
