"""The process and the machine: devices, distributed processes, threads, signals, progress."""
