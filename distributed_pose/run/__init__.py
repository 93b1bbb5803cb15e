"""What one run reads, remembers and sums up."""
