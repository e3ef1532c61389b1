"""One signal, for a field: what `train/field.py` fits. Not a data set; those are in the files that their kinds name.

A new kind is a spec in `genrep/data/__init__.py` and a file here, with a `SingleSignal` if it lies on no grid.
"""

from genrep.data.single.arrays import open_array
from genrep.data.single.base import Rendered, Renders, Share, SingleSignal
from genrep.data.single.grids import GridSignal
from genrep.data.single.pictures import open_pictures

__all__ = ["GridSignal", "Rendered", "Renders", "Share", "SingleSignal", "open_array", "open_pictures"]
