"""What the child processes drop before they touch hostile bytes."""
