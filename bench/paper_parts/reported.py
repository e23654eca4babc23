"""What the paper (Hwang et al., ISCA 2024) and a third party report: quoted values, ratios and not bars, which no text has."""

# Ratios of latency, throughput and memory: averages over its shapes, and what it says of Large (None: it does not fit there).
LATENCY = {"ondemand": 1.7, "prefetch-all": 42, "resident": 1 / 1.19}  # of a mode, to pregate
LATENCY_LARGE = {"ondemand": 1.9, "prefetch-all": 125, "resident": None}
THROUGHPUT = {"ondemand": 1.5, "prefetch-all": 27, "resident": 0.81}  # pregate to a mode
THROUGHPUT_LARGE = {"ondemand": 1.6, "prefetch-all": 52, "resident": None}
PEAK = {"pregate": 0.23, "prefetch-all": 0.51}  # to resident
# Fork of the artifact on an RTX 4090 D, float32, batch 1, 256 in and out: ms a block; tok/s at batches (pregate, ondemand).
OTHER_BLOCK_MS = {"switch-base-8": {"resident": 0.380, "pregate": 0.802, "ondemand": 1.210, "prefetch-all": 6.417},
                  "switch-base-64": {"resident": 0.381, "pregate": 0.811, "ondemand": 1.216, "prefetch-all": 50.80},
                  "switch-base-128": {"resident": None, "pregate": 0.887, "ondemand": 1.272, "prefetch-all": 101.5}}
OTHER_BATCHES = {1: (145, 106), 2: (215, 170), 4: (298, 267), 8: (426, 403), 16: (617, 604), 32: (907, 913), 64: (1257, 1374)}
# Distinct experts of an encoder block for 256 tokens, logged by another party on Base-128; few experts: all of them.
ACTIVE_SOURCE = {"switch-base-8": 8}
ACTIVE_SOURCE_ELSE = 44
# Distinct experts of a decoder block at a batch, likewise.
ACTIVE = {1: 1.0, 4: 2.6, 8: 3.6, 16: 4.5, 32: 6.8}
