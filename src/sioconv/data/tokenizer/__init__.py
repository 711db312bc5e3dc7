"""How text becomes tokens, and how well."""
