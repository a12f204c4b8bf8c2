"""The ground floor: values in, values out. No sockets, no clocks, no event loop, no files (a contract checks it)."""
