"""Many searches from one file: planned, run side by side or one after the other, taken up again after a stop."""
