"""The playground: score distillation in the plane, computed in the browser.

`static/` is a page without a framework, a server or network access: its scripts port the package's densities, denoisers and
gradients to double-precision JavaScript, and it opens from a file as well as from any host. What it needs of the package (mixtures
and small networks) is written next to it as `data.js` by `export`; `serve` shows it on the loopback interface.
"""

from modeseek.playground.data import page_data as page_data
from modeseek.playground.export import STATIC as STATIC
from modeseek.playground.export import export as export
from modeseek.playground.export import serve as serve
