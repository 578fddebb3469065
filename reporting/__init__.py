"""What out-of-fold predictions tell: scores, the best ensemble, suspected labels, and a page that shows them."""
