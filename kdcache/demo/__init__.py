"""The demo: both stages on images that come with the package."""
