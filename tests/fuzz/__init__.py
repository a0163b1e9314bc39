"""Readers of bytes that come from outside, given bytes that nobody should send: see `targets`."""
