"""From what `pregate bench` says to what the page shows."""
import statistics

from .measure import n_expert


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else 0


class Row:
    """A mode of a run, over its repetitions: medians, since one of them may meet a slow minute. Times in ms."""

    def __init__(self, found):
        self.rows = [(page, row) for page, row in found if "error" not in row]
        self.error = next((row["error"] for _, row in found if "error" in row), None)
        self.there = bool(self.rows)
        if not self.there:
            return
        page, row = self.rows[0]
        self.n = page["settings"]["n_decode"]
        self.n_parallel = page["settings"]["n_parallel"]
        layers = page["model"]["n_layer"]
        self.moe = range(layers // 2 + 1, layers, 2)  # of the decoder, every second
        self.dense = range(layers // 2, layers, 2)
        self.n_slots, self.memory = row["n_slots"], row["memory_bytes"]

    def each(self, value):
        return [value(row, row["repetitions"][0]) for _, row in self.rows]

    def median(self, value):
        return statistics.median(self.each(value))

    def count(self, key):
        return self.median(lambda row, rep: row[key])

    def blocks(self, which):
        """ms of a block of these a step, mean over them, of each repetition."""
        return self.each(lambda row, rep: statistics.mean(rep["block_seconds"][il] for il in which) * 1e3 / self.n)

    def block(self):
        return statistics.median(self.blocks(self.moe))

    def block_sd(self):
        return deviation(self.blocks(self.moe))

    def block_to(self, other):
        """Of another mode's block, of each repetition."""
        return [a / b for a, b in zip(self.blocks(self.moe), other.blocks(other.moe))]

    def first(self):
        return statistics.median(self.blocks(self.moe[:1]))

    def later(self):
        return statistics.median(self.blocks(self.moe[1:]))

    def steps(self):
        return self.each(lambda row, rep: rep["decode_seconds"] * 1e3 / self.n)

    def step(self):
        return statistics.median(self.steps())

    def step_sd(self):
        return deviation(self.steps())

    def tps(self):
        return 1e3 * self.n_parallel / self.step()

    def encode(self):
        return self.median(lambda row, rep: rep["prefill_seconds"] * 1e3)

    def peak(self):
        return max(self.each(lambda row, rep: row["peak_rss_bytes"]))

    def read_of_block(self):
        """Bytes a MoE block of the decoder and step."""
        return self.count("expert_bytes_read") / self.n / len(self.moe)

    def wanted(self):
        """Distinct experts a MoE block and step."""
        return self.count("expert_requests") / self.n / len(self.moe)

    def computing_of_block(self):
        """The block without its stalls, all of which are in blocks with experts."""
        return self.block() - self.median(lambda row, rep: row["stall_seconds"]) * 1e3 / self.n / len(self.moe)

    def hashes(self):
        return set(self.each(lambda row, rep: rep["tokens_hash"]))


def rows(lab, name, reps, evict=None):
    """The modes of NAME-rep0 to NAME-repN."""
    found = {}
    for rep in range(reps):
        page = lab.result(f"{name}-rep{rep}")
        for row in page["rows"] if page else []:
            if evict in (None, row["evict"]):
                found.setdefault(row["mode"], []).append((page, row))
    return {mode: Row(each) for mode, each in found.items()}


def roof(lab, name, reps, key="roof_disk_bytes_per_s"):
    """Over the repetitions: the disk gives more in one minute than in another, to all that is measured in it."""
    found = [page["machine"][key] for page in (lab.result(f"{name}-rep{rep}") for rep in range(reps)) if page]
    return statistics.median(found) if found else 0


class Shape:
    """The measurements of figures 10 to 12 of a shape, and their floors."""

    def __init__(self, lab, shape, part="modes", threads=None):
        plan, tail = lab.plan, f"-{threads}" if threads else ""
        self.label = shape.replace("switch-", "") + (", one thread" if threads == 1 else "")
        reps = plan["reps"] if part == "modes" else plan["few_reps"]
        prefix = f"modes-{shape}" if part == "modes" else part
        self.shape, self.n_expert = shape, n_expert(shape)
        self.rows = {}
        for name in ("needed", "resident", "all"):
            self.rows.update(rows(lab, f"{prefix}-{name}{tail}", reps))
        self.ours_all = rows(lab, f"{prefix}-all-ours{tail}", reps).get("prefetch-all")
        self.budget = rows(lab, f"{prefix}-budget{tail}", reps)
        self.disk = roof(lab, f"{prefix}-needed{tail}", reps)
        self.disk_least = roof(lab, f"{prefix}-needed{tail}", reps, "roof_disk_bytes_per_s_min")
        self.there = all(mode in self.rows and self.rows[mode].there for mode in ("pregate", "ondemand")) and self.disk > 0
        if self.there:
            self.find_times()

    def get(self, mode):
        row = self.rows.get(mode)
        return row if row and row.there else None

    def word(self, mode):
        """Where there is no such row."""
        return "does not fit" if mode in self.rows else "not run"

    def find_times(self):
        demand, resident = self.rows["ondemand"], self.get("resident")
        best = resident or demand
        self.expert = demand.count("expert_bytes_read") / max(1, demand.count("missed"))
        self.read = self.expert / self.disk * 1e3
        self.moe = best.block() if resident else demand.computing_of_block()
        self.dense = statistics.median(best.blocks(best.dense))
        self.window = self.moe + self.dense
        step = best.step()
        self.compute = step if resident else step - demand.count("stall_seconds") * 1e3 / demand.n

    def exposed(self, mode, disk):
        """ms of reading in the first block and in each later one that nothing can hide."""
        row = self.rows[mode]
        each = row.read_of_block() / disk * 1e3
        if mode == "resident":
            return 0, 0
        if mode == "ondemand":
            return each, each
        n = len(row.moe)
        first = min(self.expert / disk * 1e3, each * n)
        rest = (each * n - first) / (n - 1) if n > 1 else 0
        return first, max(0, rest - self.window)

    def floor(self, mode):
        """Of a block, mean over the blocks."""
        first, later = self.exposed(mode, self.disk)
        n = len(self.rows[mode].moe)
        return self.moe + (first + (n - 1) * later) / n

    def floor_step(self, mode, disk=None):
        first, later = self.exposed(mode, disk or self.disk)
        return self.compute + first + (len(self.rows[mode].moe) - 1) * later

    def of_floor(self, mode):
        """Of its floor at the disk's roof, and at the least bandwidth that the disk showed in the same runs, which is no
        floor but says how much of the distance may be the disk's."""
        return [self.floor_step(mode, disk) / self.rows[mode].step() for disk in (self.disk, self.disk_least)]

    def simple_floor_step(self, mode):
        """max(computing, reading): what the issue and `pregate bench` call the floor."""
        row = self.rows[mode]
        return max(self.compute, row.read_of_block() * len(row.moe) / self.disk * 1e3)

    def request(self, mode, n=256):
        """Seconds of a request: the source, and n tokens."""
        row = self.rows[mode]
        return (row.encode() + n * row.step()) * 1e-3
