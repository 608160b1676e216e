"""GraphBolt's features out of Rudder: ``rudder.graphbolt.FeatureStore()`` in the place of the store that a dataset brings.

>>> import rudder.graphbolt                                                              # doctest: +SKIP
>>> store = rudder.graphbolt.FeatureStore()                                              # doctest: +SKIP
>>> pipe = pipe.fetch_feature(store, node_feature_keys=["feat"])                         # doctest: +SKIP
>>> loader = rudder.graphbolt.ahead(gb.DataLoader(pipe, num_workers=4))                  # doctest: +SKIP

It serves DGL 2.1, which reads all features at once, and the reads in stages that came later. It imports nothing that only some
versions have.
"""

from ._ahead import ahead
from ._features import Feature, FeatureStore

__all__ = ["Feature", "FeatureStore", "ahead"]
