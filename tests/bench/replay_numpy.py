# SPDX-License-Identifier: GPL-3.0-or-later
"""What one would otherwise write: the decisions of `kvsim replay` with iterated eviction, in numpy over h5py.

    replay_numpy.py TRACE PROCESSES KEEP...       prints, for each budget, entries held at the end

Candidates are what earlier ticks left and the new chunk; window_seen's rows are pooled by 5, the last 64 tokens stay,
and of all tokens so far KEEP stays, rounded up to 64.
"""
import sys
from multiprocessing import Pool

import h5py
import numpy as np

try:
    import hdf5plugin  # noqa: F401  reads zstd
except ImportError:
    pass

WINDOW, WIDTH = 64, 5
TABLE = np.where(np.arange(4096) > 0, 2.0 ** ((np.arange(4096) - 4095) / 64.0), 0).astype("f4")


def rows(group, begin, end):
    hi, lo = group["hi"][begin:end], group["lo"][begin:end]
    low = np.empty(hi.shape, "u2")
    low[:, 0::2] = lo[:, : (hi.shape[1] + 1) // 2] & 15
    low[:, 1::2] = lo[:, : hi.shape[1] // 2] >> 4
    return TABLE[(hi.astype("u2") << 4) | low] * group["max"][begin:end][:, None]


def part(job):
    path, begin, end, keeps = job
    held = {}
    with h5py.File(path, "r") as f:
        ends, channel = f["ticks/q_end"][:], f["channels/window_seen"]
        for tick, seen in enumerate(ends):
            start = ends[tick - 1] if tick else 0
            score = rows(channel["t%05d" % tick], begin, end)
            for keep in keeps:
                total = -(-int(keep * seen) // 64) * 64
                for lane in range(end - begin):
                    old = held.get((keep, lane), np.empty(0, "i4"))
                    at = np.concatenate([old, np.arange(start, seen, dtype="i4")])
                    if len(at) > total:
                        pooled = np.convolve(score[lane, at[:-WINDOW]], np.ones(WIDTH, "f4"), "same")
                        best = np.argpartition(pooled, len(pooled) - (total - WINDOW))[len(pooled) - (total - WINDOW):]
                        best.sort()
                        at = np.concatenate([at[best], at[-WINDOW:]])
                    held[keep, lane] = at
    return [sum(len(held[keep, lane]) for lane in range(end - begin)) for keep in keeps]


def main():
    path, processes, keeps = sys.argv[1], int(sys.argv[2]), [float(k) for k in sys.argv[3:]]
    with h5py.File(path, "r") as f:
        lanes = f["channels/window_seen/t00000/max"].shape[0]
    step = max(1, min(8, lanes // processes))
    jobs = [(path, i, min(i + step, lanes), keeps) for i in range(0, lanes, step)]
    with Pool(processes) as pool:
        parts = pool.map(part, jobs, chunksize=1)
    for i, keep in enumerate(keeps):
        print(keep, sum(p[i] for p in parts))


if __name__ == "__main__":
    main()
