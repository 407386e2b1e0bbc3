"""What bounds a single site's influence on, and exposure through, the shared model."""
