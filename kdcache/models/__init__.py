"""timm models by name or folder, their weights and cards, and the teacher's forward pass."""
