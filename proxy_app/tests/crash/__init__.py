"""The journal against kill -9, power loss and a disk that fails, at each of its system calls."""
