"""Speed of the kernels beside what a user would otherwise call; correctness first, then time.

    python -m kernels.bench              CPU: minutes; a table, and rows appended to metrics/bench.csv
    python -m kernels.bench --gpu        the same for the CUDA device; needs numpy, numba, torch and cupy only
    python -m kernels.bench --quick      one small size, seconds; appends only where --output says so

Every provider of an operation does the same job at the same size, on one thread, in alternating rounds, so that a busy
machine slows them alike (`jobs` says what the job is, `peers` and `gpu_peers` how others do it). Buffers are made
before the clock starts where a library can write into one. A rate is path-steps a second at the median round; for
dropout, elements a second.

`ceiling_share` is the rate over the rate that the same machine cannot exceed, measured in the same rounds at the same
size (`ceilings`): the time of the slowest of the things that the operation must do,

    memset     fill as many bytes as the operation writes
    memcpy     copy as many bytes as it reads and writes
    words      make the Philox words that it takes, and exclusive-or them
    normals    make the normals that it takes, and add them

Whole paths and dropout are bound by memory or by what they draw, fused bit kernels by `words` (an integer ceiling),
fused normal kernels by `normals`. A share above 1 would mean that the ceiling was measured badly.

`metrics/bench.csv` is a log: rows are appended and never replaced, and a reader takes the last row of each device,
operation, provider and size.
"""
