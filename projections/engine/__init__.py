"""How views follow the log: folded in order, kept in a file of their own, and made anew beside the served ones."""
