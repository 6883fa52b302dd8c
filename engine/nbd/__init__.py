"""The NBD protocol: a codec of both roles without I/O, an asyncio shell for the client, a selector for the server."""
