"""Models: finding and loading a base model, and what differs between families of them."""
