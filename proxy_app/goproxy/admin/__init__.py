"""`goproxy admin`: the admin API on a command line. It needs nothing but Python, and the backend may be elsewhere."""
