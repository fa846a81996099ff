"""What a site of a million repositories takes a day: sums over assumptions, and what was measured of the app."""
