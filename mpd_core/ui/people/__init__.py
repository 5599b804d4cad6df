"""People as judges: the pages Vote and Results, over the replies of a stored run."""
