"""Decodes images and turns them into network inputs. Pure functions."""
