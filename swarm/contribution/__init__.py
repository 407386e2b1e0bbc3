"""What each site's work was worth: shares by data, games over coalitions, and what members agree on of them."""
