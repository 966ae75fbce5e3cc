"""What agents print, as events: one pure parser for each format, and what is known of each agent's command."""
