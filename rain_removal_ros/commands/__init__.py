"""The `derain` command, a file a subcommand; the work is done elsewhere."""
