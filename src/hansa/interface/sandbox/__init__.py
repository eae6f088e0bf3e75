"""A sandbox: invented companies in one key store, and programs that play them."""
