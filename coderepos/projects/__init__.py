"""A small app of its own: the table ``projects``, for hosts that have no project model."""
