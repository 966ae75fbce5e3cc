"""How runfold goes onto many machines: a configuration to start from, and a cluster of one machine to try."""
