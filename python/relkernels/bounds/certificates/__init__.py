"""The parts of `certify`: cells of a box, and enclosures of activations, maps and relations on them."""
