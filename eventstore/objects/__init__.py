"""What is too large for an event: blobs and output, on this machine's disk or in a store that machines share."""
