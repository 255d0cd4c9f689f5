"""The HTTP routes of a worker: pages, autoload.js, metadata, assets, the index and login."""
