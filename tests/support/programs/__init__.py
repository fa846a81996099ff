"""Programs and settings of processes that tests start."""
