"""The inputs, the ledger and the summary of one run."""
