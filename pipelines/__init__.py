"""Programs on Ray: one file per verb of the `rtnet` command."""
