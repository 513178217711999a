"""What tries to bring a forgotten fact back: with prompts, with the weights, inside."""
