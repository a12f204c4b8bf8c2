"""goproxy: the streaming proxy of one LLM upstream (data plane); accounts, keys and ledger of all (control plane)."""

__version__ = "0.1.0"
