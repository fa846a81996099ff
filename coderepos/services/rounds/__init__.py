"""What runs every few seconds or minutes beside the clones."""
