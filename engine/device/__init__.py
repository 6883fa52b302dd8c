"""Adapters of the BlockDevice port: raw files and block devices, NBD, memory."""
