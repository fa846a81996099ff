"""What broke other Git clients in the field: each test names the public report that it was made from."""
