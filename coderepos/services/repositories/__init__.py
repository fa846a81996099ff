"""What people do with a repository: each use case, and what they have in common."""
