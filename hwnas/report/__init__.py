"""The report of a run: `write.py` is the page in order, `explain.py` why the search came out so."""
