"""The log: the contract every backend keeps, SQLite, the ledger that decides, leases and blobs."""
