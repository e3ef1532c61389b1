"""Single signals, to which `train/field.py` fits fields. Data sets are in `genrep/data/images.py` and `arrays.py`.

To add a kind, write a spec in `genrep/data/__init__.py` and a file here, with a `SingleSignal` if it does not lie on a
grid.
"""

from genrep.data.single.arrays import open_array
from genrep.data.single.base import Rendered, Renders, Share, SingleSignal
from genrep.data.single.grids import GridSignal
from genrep.data.single.pictures import open_pictures

__all__ = ["GridSignal", "Rendered", "Renders", "Share", "SingleSignal", "open_array", "open_pictures"]
