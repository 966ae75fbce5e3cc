"""What outlasts the log or leaves it: archives, backups, the second copy, snapshots, cleaning and redaction."""
