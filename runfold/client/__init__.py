"""A program reports its own run: to a server, else to the installed tool, else to a file that the tool takes in."""
