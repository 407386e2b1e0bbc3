"""Fewer bytes for a vector, and the memory that makes up for what they leave out."""
