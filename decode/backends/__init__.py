"""What computes the forward pass: torch operations anywhere, compiled C on a CPU."""
