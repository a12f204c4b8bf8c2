"""What the tests see the gateway with, all of it from outside the product's own code."""
