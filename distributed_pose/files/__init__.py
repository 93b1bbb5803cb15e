"""Files, folders and URIs, and the values read from them."""
