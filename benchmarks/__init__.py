"""How many tenants can fall due at the same moment, how late they close, what each one costs."""
