"""What `bench/billing.py` measures, one figure or two a module, and what they share: prices, answers, a rig."""
