"""The engine on Ray, and the only room that imports Ray."""
