"""Commands of a station: `cmdiad-line SUBCOMMAND`, one file each."""
