"""MultiMAE once more, from its description: plain functions on an official state dict, one sample at a time.

Slow and literal on purpose. It shares no code with `multimae`, which the tests hold against it.
"""

import torch
import torch.nn.functional as F

ORDER = ("rgb", "depth", "semseg")
STRIDE = {"rgb": 1, "depth": 1, "semseg": 4}
CHANNELS = {"rgb": 3, "depth": 1}
RESIZE = {"rgb": "bicubic", "depth": "bicubic", "semseg": "bilinear"}
ADAPTERS = {"rgb": "rgb", "rgb_standardized": "norm_rgb", "depth": "depth", "semseg": "semseg"}
MODALITY = {"rgb": "rgb", "rgb_standardized": "rgb", "depth": "depth", "semseg": "semseg"}


def random_checkpoint(
    dim=32, depth=2, decoder_dim=16, decoder_depth=2, grid=4, patch=16, inputs=ORDER, targets=tuple(ADAPTERS),
    classes=11, class_rows=None, class_dim=6, seed=0,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Every key of an official pre-training checkpoint, with random values: biases, norms and positions too."""
    g = torch.Generator().manual_seed(seed)
    state = {}

    def put(name, *shape, scale=0.3, around=0.0):
        state[name] = around + scale * torch.randn(*shape, generator=g)

    def linear(name, d_in, d_out):
        put(f"{name}.weight", d_out, d_in, scale=d_in**-0.5)
        put(f"{name}.bias", d_out)

    def norm(name, width):
        put(f"{name}.weight", width, around=1.0)
        put(f"{name}.bias", width)

    def block(name, width):
        norm(f"{name}.norm1", width)
        linear(f"{name}.attn.qkv", width, 3 * width)
        linear(f"{name}.attn.proj", width, width)
        norm(f"{name}.norm2", width)
        linear(f"{name}.mlp.fc1", width, 4 * width)
        linear(f"{name}.mlp.fc2", 4 * width, width)

    put("global_tokens", 1, 1, dim)
    for m in inputs:
        side, channels = patch // STRIDE[m], CHANNELS.get(m, class_dim)
        put(f"input_adapters.{m}.pos_emb", 1, dim, grid, grid)
        put(f"input_adapters.{m}.proj.weight", dim, channels, side, side, scale=(channels * side**2) ** -0.5)
        put(f"input_adapters.{m}.proj.bias", dim)
        if m == "semseg":
            put("input_adapters.semseg.class_emb.weight", class_rows or classes, class_dim, scale=1.0)
    for i in range(depth):
        block(f"encoder.{i}", dim)
    for target in targets:
        name, m = f"output_adapters.{ADAPTERS[target]}", MODALITY[target]
        put(f"{name}.mask_token", 1, 1, decoder_dim)
        put(f"{name}.pos_emb", 1, decoder_dim, grid, grid)
        for other in inputs:
            put(f"{name}.task_embeddings.{other}", 1, 1, decoder_dim)
        linear(f"{name}.proj_context", dim, decoder_dim)
        linear(f"{name}.decoder.q", decoder_dim, decoder_dim)
        linear(f"{name}.decoder.kv", decoder_dim, 2 * decoder_dim)
        linear(f"{name}.decoder.proj", decoder_dim, decoder_dim)
        for part in ("context_norm", "query_norm", "out_norm"):
            norm(f"{name}.{part}", decoder_dim)
        linear(f"{name}.mlp.fc1", decoder_dim, 4 * decoder_dim)
        linear(f"{name}.mlp.fc2", 4 * decoder_dim, decoder_dim)
        for i in range(decoder_depth):
            block(f"{name}.decoder_transformer.{i}", decoder_dim)
        linear(f"{name}.out_proj", decoder_dim, CHANNELS.get(m, classes) * (patch // STRIDE[m]) ** 2)
    return state


class Reference:
    """`encode`, `predict` and `losses` of a batch with masks {modality: bool (batch, tokens)} or None."""

    def __init__(self, state, patch=16, encoder_heads=12, decoder_heads=8):
        self.state, self.patch = state, patch
        self.encoder_heads, self.decoder_heads = encoder_heads, decoder_heads
        self.inputs = [m for m in ORDER if f"input_adapters.{m}.pos_emb" in state]
        self.targets = [t for t, adapter in ADAPTERS.items() if f"output_adapters.{adapter}.mask_token" in state]

    # ---- parts

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attend(self, q, k, v, heads):
        out = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
            out.append(torch.softmax(qh @ kh.T / qh.shape[-1] ** 0.5, -1) @ vh)
        return torch.cat(out, -1)

    def mlp(self, name, x):
        x = self.linear(f"{name}.fc1", x)
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
        return self.linear(f"{name}.fc2", x)

    def block(self, name, x, heads):
        q, k, v = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x)).chunk(3, -1)
        x = x + self.linear(f"{name}.attn.proj", self.attend(q, k, v, heads))
        return x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x))

    def table(self, name, grid, mode):
        table = self.state[name]
        if table.shape[-2:] != grid:
            table = F.interpolate(table, grid, mode=mode, align_corners=False)
        return torch.stack([table[0, :, i, j] for i in range(grid[0]) for j in range(grid[1])])

    def grid(self, m, image):
        side = self.patch // STRIDE[m]
        return image.shape[-2] // side, image.shape[-1] // side

    # ---- one sample

    def encode_sample(self, images, visible):
        tokens = []
        for m in self.inputs:
            name, image = f"input_adapters.{m}", images[m]
            if m == "semseg":
                image = self.state[f"{name}.class_emb.weight"][image].permute(2, 0, 1)
            weight, bias = self.state[f"{name}.proj.weight"], self.state[f"{name}.proj.bias"]
            projected = F.conv2d(image[None], weight, bias, stride=self.patch // STRIDE[m])[0]
            grid = tuple(projected.shape[-2:])
            x = torch.stack([projected[:, i, j] for i in range(grid[0]) for j in range(grid[1])])
            x = x + self.table(f"{name}.pos_emb", grid, RESIZE[m])
            tokens.append(x if visible is None else x[visible[m]])
        x = torch.cat([*tokens, self.state["global_tokens"][0]])
        i = 0
        while f"encoder.{i}.norm1.weight" in self.state:
            x = self.block(f"encoder.{i}", x, self.encoder_heads)
            i += 1
        return x

    def predict_sample(self, target, encoded, images, visible):
        name, own = f"output_adapters.{ADAPTERS[target]}", MODALITY[target]
        grids = {m: self.grid(m, images[m]) for m in {*self.inputs, own}}
        context = self.linear(f"{name}.proj_context", encoded)
        sequences, keys, at = {}, [], 0
        for m in self.inputs:
            tokens = grids[m][0] * grids[m][1]
            seen = torch.ones(tokens, dtype=torch.bool) if visible is None else visible[m]
            full = self.state[f"{name}.mask_token"][0].repeat(tokens, 1)
            full[seen] = context[at : at + int(seen.sum())]
            at += int(seen.sum())
            full = full + self.table(f"{name}.pos_emb", grids[m], "bilinear")
            full = full + self.state[f"{name}.task_embeddings.{m}"][0]
            sequences[m] = full
            keys.append(full[seen])
        keys = torch.cat([*keys, context[at:]])  # the global token last, with nothing added
        if own in sequences:
            x = sequences[own]
        else:
            x = self.state[f"{name}.mask_token"][0] + self.table(f"{name}.pos_emb", grids[own], "bilinear")
        q = self.linear(f"{name}.decoder.q", self.norm(f"{name}.query_norm", x))
        k, v = self.linear(f"{name}.decoder.kv", self.norm(f"{name}.context_norm", keys)).chunk(2, -1)
        x = self.linear(f"{name}.decoder.proj", self.attend(q, k, v, self.decoder_heads))
        x = x + self.mlp(f"{name}.mlp", self.norm(f"{name}.out_norm", x))
        i = 0
        while f"{name}.decoder_transformer.{i}.norm1.weight" in self.state:
            x = self.block(f"{name}.decoder_transformer.{i}", x, self.decoder_heads)
            i += 1
        x = self.linear(f"{name}.out_proj", x)
        side = self.patch // STRIDE[own]
        rows, columns = grids[own]
        image = torch.empty(x.shape[1] // side**2, rows * side, columns * side)
        for token, values in enumerate(x):
            i, j = token // columns * side, token % columns * side
            image[:, i : i + side, j : j + side] = values.reshape(-1, side, side)
        return image

    # ---- a batch

    def _samples(self, images, visible):
        for b in range(len(next(iter(images.values())))):
            yield {m: x[b] for m, x in images.items()}, visible and {m: x[b] for m, x in visible.items()}

    def encode(self, images, visible):
        """A list: samples may have different numbers of tokens."""
        return [self.encode_sample(*sample) for sample in self._samples(images, visible)]

    def predict(self, images, visible):
        encoded = self.encode(images, visible)
        return {
            t: torch.stack([self.predict_sample(t, x, *s) for x, s in zip(encoded, self._samples(images, visible))])
            for t in self.targets
        }

    def losses(self, predictions, images, visible):
        losses = {}
        for target, predicted in predictions.items():
            m = MODALITY[target]
            per_sample = []
            for b, image in enumerate(images[m]):
                side, (rows, columns) = self.patch // STRIDE[m], self.grid(m, image)
                masked = torch.ones(rows, columns, dtype=torch.bool)
                if visible is not None and m in visible:
                    masked = ~visible[m][b].reshape(rows, columns)
                pixels = masked.repeat_interleave(side, 0).repeat_interleave(side, 1)
                if not pixels.any():
                    continue
                error = self.error(target, predicted[b], image, side)
                per_sample.append(error[..., pixels].mean())
            losses[target] = torch.stack(per_sample).mean()
        return losses

    def error(self, target, predicted, image, side):
        if target == "semseg":
            return -torch.log_softmax(predicted, 0).gather(0, image[None])
        if target == "depth":
            return (predicted - image).abs()
        if target == "rgb_standardized":
            image = image.clone()
            for i in range(0, image.shape[1], side):
                for j in range(0, image.shape[2], side):
                    patch = image[:, i : i + side, j : j + side]
                    values = patch.flatten()
                    variance = ((values - values.mean()) ** 2).sum() / (len(values) - 1)
                    image[:, i : i + side, j : j + side] = (patch - values.mean()) / torch.sqrt(variance + 1e-6)
        return (predicted - image) ** 2
