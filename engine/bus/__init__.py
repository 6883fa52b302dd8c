"""Adapters of the Bus port: embedded segments, Kafka, memory."""
