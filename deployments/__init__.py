"""Where and how the flows run, and the ways people start them."""
