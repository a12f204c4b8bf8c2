"""What the tests see the gateway with, all of it from outside the product's own code.

specification   the names and numbers of the user's specification
connection      where things are: the JSON file that GATEWAY_CONNECTION names
edge            TLS and HTTP to the edge, under any name, with real verification
user            somebody with an API key: plain requests, and the official clients
provider        the control of a simulated provider: what it received, how it is to behave
stream          a stream that is kept open and watched
vps             a look into the VPS: containers, files, sockets
"""
