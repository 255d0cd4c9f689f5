"""What can be chosen: the table of options, where values come from, and the `Settings` they become."""
