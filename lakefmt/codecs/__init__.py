"""Bytes to arrays and back: one module a codec, one table over them."""

from lakefmt.codecs.images import decode, decode_foreign, decode_pil, encode, pil_pixels, read_header, refuse_huge, sniff

__all__ = ["decode", "decode_foreign", "decode_pil", "encode", "pil_pixels", "read_header", "refuse_huge", "sniff"]
