"""Commands for many machines: `cmdiad-fleet SUBCOMMAND`, one file each."""
