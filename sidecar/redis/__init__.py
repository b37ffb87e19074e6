"""The Redis side: key names, scripts, and the connections that use them."""
