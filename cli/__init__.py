"""The words of the terminal and the wiring of the process."""
