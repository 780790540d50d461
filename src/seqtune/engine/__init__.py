"""The training engine: one visible loop and the parts in which it is better than a library."""
