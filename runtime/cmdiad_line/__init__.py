"""CMDIAD line: the supervised station next to a production line, which answers every trigger with one verdict.

Rooms: `station_file` (the TOML file), `transport` (messages and frames between processes), `supervisor`, `acquisition`,
`inspection`, `plc`, `opcua`, `mqtt`, `web`, `records`, `recipes`, `review` and `cli`. docs/station.md explains them.
"""
