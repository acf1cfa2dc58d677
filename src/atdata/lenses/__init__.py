"""One sample type seen, and edited, as another."""
