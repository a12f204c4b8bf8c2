"""goproxy: the streaming proxy of one LLM upstream (data plane) and its catalogue (control plane)."""

__version__ = "0.1.0"
