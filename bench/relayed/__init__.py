"""What bench/relay.py is made of: generators, what relays, measures, and the page that is made from the results."""
