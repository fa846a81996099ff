"""``python manage.py demo``: the whole way of a repository, from the request to the sandbox, on one machine."""
