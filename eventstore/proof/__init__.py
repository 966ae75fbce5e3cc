"""That nothing was altered: the proof of the whole log, the check of every page that is served, and signed anchors."""
