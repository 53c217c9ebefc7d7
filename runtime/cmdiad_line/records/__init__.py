"""The records of a station: one row for each trigger, the audit log, and pictures."""
