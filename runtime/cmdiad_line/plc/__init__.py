"""The plant's controller (PLC): handshake, registers, Modbus TCP, digital lines, and a simulator of its side."""
