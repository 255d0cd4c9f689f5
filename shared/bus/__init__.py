"""The bus between workers and nodes: publish and subscribe, calls of Lua scripts, and what is said over it."""
