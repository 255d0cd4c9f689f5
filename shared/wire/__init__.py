"""What Aperture's own processes say to each other, within a node and over Redis."""
