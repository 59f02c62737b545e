"""Bytes to arrays and back: one module a codec, one table over them."""

from lakefmt.codecs.images import decode, decode_pil, encode, read_header, sniff

__all__ = ["decode", "decode_pil", "encode", "read_header", "sniff"]
