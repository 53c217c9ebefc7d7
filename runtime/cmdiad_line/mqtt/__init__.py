"""Results and state of the station for an MQTT broker, with a bounded store for the time that the broker is away."""
