"""Why something happened: rules over the one history of a window, each a small function."""
