"""The road: receive -> decode -> validate -> mask -> write -> ack."""
