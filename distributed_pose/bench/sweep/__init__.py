"""Sweeps of sizes, precisions, batch sizes, devices and backends over one dataset."""
