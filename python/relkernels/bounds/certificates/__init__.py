"""What `certify` computes with: cells, and maps, relations and errors on them."""
