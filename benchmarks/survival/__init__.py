"""Searches killed and run directories damaged at random: nothing may be lost, or silently different."""
