"""``python manage.py demo``: a repository end to end, from the request to the sandbox, on one machine."""
