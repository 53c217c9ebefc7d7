"""All detector families on the same parts: trained, exported, measured, and next to their published figures."""
