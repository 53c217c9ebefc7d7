"""Connection to the plant's controller (PLC): handshake, registers, Modbus TCP, digital lines, and a simulated PLC."""
