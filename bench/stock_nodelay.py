"""Stock `bokeh`, but its websockets send small frames at once.

Without this a comparison of round trips would measure Nagle's algorithm against delayed acknowledgements and little
else: stock Bokeh leaves it on and spends 40 ms of most round trips waiting.
"""

from __future__ import annotations

from typing import Any

from bokeh.__main__ import main
from bokeh.server.views.ws import WSHandler

_open = WSHandler.open


def _open_without_delay(self: WSHandler, *args: Any, **kwargs: Any) -> Any:
    self.set_nodelay(True)
    return _open(self, *args, **kwargs)


WSHandler.open = _open_without_delay  # type: ignore[method-assign]

if __name__ == "__main__":
    main()  # type: ignore[no-untyped-call]  # Bokeh's, which has no types
