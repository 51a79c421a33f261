"""Local files: written whole and through no link, read only where they are regular and of a bounded size."""
