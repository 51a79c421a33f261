"""A part of Fashion-MNIST, shipped with kdcache; the README.md beside says which part, and under what licence."""
