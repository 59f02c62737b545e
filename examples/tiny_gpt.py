"""Trains a small GPT on the bytes of a text file, and goes on exactly where it was when it is stopped, however it is stopped.

    python examples/tiny_gpt.py shakespeare.txt --out run

The text is tokenised once, a paragraph a row, into ``run/dataset``; training reads blocks of tokens across paragraphs from there.
Every ``--save-every`` steps ``run/checkpoint.pt`` is replaced by one with the model, the optimiser and the state of the loader. Run
the same command again after a crash, a kill or a power cut: the losses and weights that follow are those of a run that never
stopped, to the last bit. (One thread: sums in another order are other sums.)
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import lakefmt

EOS = 256
VOCABULARY = 257


def encode(texts: list[str]) -> list[list[int]]:
    """The bytes of each text."""
    return [list(text.encode()) for text in texts]


def paragraphs(path: Path) -> Iterator[str]:
    """What stands between empty lines."""
    lines: list[str] = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            lines.append(line)
            if not line.strip():
                yield "".join(lines)
                lines = []
    yield "".join(lines)


def dataset(text: Path, folder: Path) -> Any:
    """The tokens of the text; made by the first run, all of them or none."""
    ds = lakefmt.dataset(folder)
    if "tokens" not in ds:
        count = lakefmt.tokenise(ds, paragraphs(text), "tokens", encode, dtype="uint16")
        print(f"{count} tokens in {len(ds)} paragraphs", flush=True)
    return ds


class Block(nn.Module):
    """Attention to what came before, and a layer for each token by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.each(self.between(x))


class GPT(nn.Module):
    """Bytes in, a guess at each next byte out."""

    def __init__(self, block_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(block_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint: whoever looks sees the old one or the new one, whole."""
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def train(args: argparse.Namespace) -> GPT:
    """Train from where the last checkpoint was, or from the beginning."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = GPT(args.block_size, args.width, args.layers, args.heads)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr)
    blocks = dataset(args.text, args.out / "dataset").dataloader().tokens(args.block_size + 1, eos=EOS, overlap=1)
    loader = blocks.batch(args.batch_size, drop_last=True).shuffle(seed=args.seed).pytorch()
    if not len(loader):
        raise SystemExit("the text is too short for a single batch: take a smaller --batch-size or --block-size")
    step, losses = 0, list[float]()
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        loader.load_state_dict(state["loader"])
        step, losses = state["step"], state["losses"]
        print(f"resumed at step {step}", flush=True)
    began, first = time.perf_counter(), step
    while step < args.steps:
        for batch in loader:
            tokens = batch["tokens"].long()
            guesses = model(tokens[:, :-1])
            loss = functional.cross_entropy(guesses.flatten(0, 1), tokens[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            losses.append(loss.item())
            if step % args.print_every == 0:
                recent = losses[-args.print_every :]
                print(f"step {step}  loss {sum(recent) / len(recent):.4f}", flush=True)
            if step % args.save_every == 0 or step == args.steps:
                parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "loader": loader.state_dict()}
                save(checkpoint, {**parts, "step": step, "losses": losses})
            if step == args.steps:
                break
    if step > first:
        tokens_s = (step - first) * args.batch_size * args.block_size / (time.perf_counter() - began)
        print(f"{step - first} steps, {tokens_s:,.0f} tokens a second", flush=True)
    return model


@torch.no_grad()
def write(model: GPT, block_size: int, length: int) -> str:
    """What the model has to say."""
    tokens = torch.tensor([[ord("\n")]])
    for _ in range(length):
        likely = functional.softmax(model(tokens[:, -block_size:])[:, -1], dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(likely, 1)], dim=1)
    return bytes(t for t in tokens[0, 1:].tolist() if t < EOS).decode(errors="replace")


def main() -> None:
    """Train, then write a little."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, UTF-8")
    parser.add_argument("--out", type=Path, default=Path("tiny-gpt"), help="folder of the dataset and the checkpoint")
    sizes = {
        "steps": 600, "save_every": 50, "print_every": 20, "batch_size": 16, "block_size": 128, "width": 128, "layers": 4,
        "heads": 4, "seed": 1, "sample": 300,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate; default: 0.001")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = train(args)
    if args.sample:
        print(write(model, args.block_size, args.sample))


if __name__ == "__main__":
    main()
