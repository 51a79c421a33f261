"""`python -m kdcache_cli`, also under torchrun."""

from kdcache_cli.main import main

if __name__ == "__main__":
    main()
