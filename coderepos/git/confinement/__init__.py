"""What the child processes give up before they touch hostile bytes."""
