"""The fault matrix, row by row: see README.md beside this file."""
