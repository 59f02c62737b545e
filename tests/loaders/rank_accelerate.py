"""One rank of test_loader_accelerate: prints what it was handed out. Arguments: dispatch_batches, split_batches, workers."""

from __future__ import annotations

import json
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from loader_fake import numbers

from lakefmt.loaders import dataloader

dispatch, split, workers = (json.loads(a) for a in sys.argv[1:])
early = dataloader(numbers(100)).batch(8).shuffle().pytorch(workers)
accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split))
late = dataloader(numbers(100)).batch(8).shuffle().pytorch(workers)
alone = [[v for b in loader for v in b["label"].tolist()] for loader in (early, late)]
prepared = [accelerator.prepare(loader) for loader in (early, late)]
shared = [[[b["label"].tolist() for b in loader] for _ in range(2)] for loader in prepared]
print(json.dumps({"alone": alone, "shared": shared}))
torch.distributed.destroy_process_group()
