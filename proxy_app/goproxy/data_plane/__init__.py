"""The data plane: one upstream's requests, from the client to the provider and back."""
