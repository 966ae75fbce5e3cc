"""HTTP and SSE: requests into commands, rows into JSON; decides nothing."""
