"""What `kdcache doctor` tries on this machine."""
