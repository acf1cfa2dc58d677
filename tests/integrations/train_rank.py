"""One rank of a training: reads its batches through a DataLoader, in step with the others, and notes what it was given.

python train_rank.py DATA FOLDER RANK RANKS WORKERS [STATE]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import atdata


def main(data: str, folder: Path, rank: int, ranks: int, workers: int, state: str | None) -> None:
    store = folder / f"rendezvous-{ranks}-{workers}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    loader = atdata.Dataset(data).shuffled(batch_size=8, seed=11, remainder="uneven")
    if state is not None:
        loader.load_state_dict(json.loads(Path(state).read_text()))
    batches = iter(DataLoader(loader.torch(), num_workers=workers))
    step = 0
    with (folder / f"seen-{rank}.txt").open("a") as seen:
        while True:
            batch = next(batches, None)
            # Ranks may have one batch more or less: all go on until nobody has any.
            more = torch.tensor([0 if batch is None else 1])
            dist.all_reduce(more)
            if int(more) == 0:
                break
            step += 1
            if batch is not None:
                seen.write(json.dumps([step, batch["number"].tolist()]) + "\n")
                seen.flush()
            dist.barrier()
            if rank == 0:
                temporary = folder / "state.new"
                temporary.write_text(json.dumps({"step": step, "state": loader.state_after(step)}))
                os.replace(temporary, folder / "state.json")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]), sys.argv[6] if len(sys.argv) > 6 else None)
