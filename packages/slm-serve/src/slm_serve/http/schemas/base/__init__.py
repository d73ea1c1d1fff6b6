"""What the schemas have in common: field types, and which unknown fields are ignored or refused."""
