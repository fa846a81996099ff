"""Other people's projects: the app mounted in them from its documentation alone."""
