"""Until protocol 5: the old native client with the new calls."""
import json
import numpy as np
from . import _native, errors


def w(ids):
    return ids.astype(np.uint64 if ids.dtype.kind == "u" else np.int64) if ids.dtype.itemsize == 4 else ids


class Many:
    def __init__(self, ps):
        self.ps = ps
    def wait(self):
        return [p.wait() for p in self.ps]
    def done(self):
        return all(p.done() for p in self.ps)


class Shim:
    def __init__(self, n):
        self.n = n
        self.w = []
    def __getattr__(self, name):
        return getattr(self.n, name)
    def tables(self):
        return [t if len(t) == 9 else (*t[:4], (t[3],), *t[4:]) for t in self.n.tables()]
    def fetch(self, parts, batch, learn):
        return [self.n.fetch(name, w(ids)) for name, ids in parts]
    def fetch_async(self, parts, batch, learn):
        return Many([self.n.fetch_async(name, w(ids)) for name, ids in parts])
    def announce(self, parts, step, batch):
        for name, ids in parts:
            try:
                self.n.announce(name, w(ids), step)
            except errors.RudderError as e:
                self.w.append((e.code, str(e)))
    def update(self, t, ids, rows):
        return self.n.update(t, w(ids), rows)
    def original_ids(self, t, ids):
        return self.n.original_ids(t, w(ids))
    def dataset_ids(self, t, ids):
        return self.n.dataset_ids(t, w(ids))
    def names(self, t, ids):
        return self.n.names(t, w(ids))
    def warm(self, t, ids):
        return self.n.warm(t, w(ids))
    def owner(self, t, ids):
        rows = {x[0]: x for x in self.n.tables()}[t]
        return (w(ids) * 2 // rows[4]).astype(np.uint16)
    def horizon(self, table):
        return next(t for t in json.loads(self.n.status())["tables"] if t["name"] == table)["lookahead"]["horizon"]
    def warnings(self):
        a, self.w = self.w, []
        return a
    def on_arena(self, a, b):
        pass
    def close(self):
        del self.n
