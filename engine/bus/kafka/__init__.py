"""The bus on Apache Kafka 4.x, by aiokafka: the only package that imports it."""
