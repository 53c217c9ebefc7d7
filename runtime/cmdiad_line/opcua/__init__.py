"""OPC UA server of a station after OPC 40100-1 Machine Vision, with the official node set."""
