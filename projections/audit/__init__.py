"""Who did what when: the audit's rows, what may be asked of them, where they are found, and the answers."""
