"""What one sample is: its type, its fields, its bytes, its schema."""
