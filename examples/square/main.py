"""Prints the square of the number that it is given."""

import sys

print(int(sys.argv[1]) ** 2)
