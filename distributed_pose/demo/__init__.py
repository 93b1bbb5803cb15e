"""The demo that runs use by default: rendered images and a trained model."""
