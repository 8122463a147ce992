"""What is run by hand and by make; a package, so that one of them can use another."""
