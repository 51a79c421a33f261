"""The checks of `kdcache doctor` on this machine."""
