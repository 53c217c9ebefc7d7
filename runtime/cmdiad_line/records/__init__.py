"""What a station writes down: one row for each trigger, the audit log, and pictures. Reading, verifying, exporting."""
