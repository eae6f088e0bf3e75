"""Bytes in, bytes out: block log, key-value state, blobs, SQL engine; imports nothing of ours."""
