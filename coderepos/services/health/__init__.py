"""Whether jobs get done: in two words for load balancers (``pulse``), and whole for operators (``report``)."""
