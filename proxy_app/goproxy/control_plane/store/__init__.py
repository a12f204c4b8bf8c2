"""What the control plane remembers: a file for each noun, and the database under them."""
