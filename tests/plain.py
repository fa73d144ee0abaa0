"""RTNet as its description reads, one sample at a time, straight from a checkpoint's entries: the tests' oracle.

Shares nothing with rtnet/: functions of the published entries, every step in the published order, the whole N x N
matrix of each attention, no thought of memory. Encoders: torchvision's ResNets.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = {1: 1, 2: 2, 3: 4, 4: 8}


class PlainRTNet:
    """state: published names -> tensors. transposed: the levels whose attention sums over the queries."""

    def __init__(self, state: Mapping[str, Tensor], transposed: tuple[int, ...], training: bool = False) -> None:
        self.state = state
        self.transposed = transposed
        self.training = training

    def side_maps(self, video: Tensor, flow: Tensor) -> dict[str, list[Tensor]]:
        """video (2, 3, H, W), flow (2, 6, H, W) -> per stream four maps (2, 1, 4*H1, 4*W1), finest first.

        Probabilities. Batch-norm statistics of the batch in training; the running ones are left as they are.
        """
        s = self._stem("spatial_net", video)
        t = self._stem("temporal_net", flow)
        spatial, temporal = [], []
        for level in (1, 2, 3, 4):
            s = self._layer(f"spatial_net.encoder{level}", s, stride=1 if level == 1 else 2)
            t = self._layer(f"temporal_net.encoder{level}", t, stride=1 if level == 1 else 2)
            s, t = self._exchange(level, s, t)
            spatial.append(s)
            temporal.append(t)
        spatial_skips = [self._bridge("spatial_net", level, spatial[level - 1]) for level in (1, 2, 3)]
        temporal_skips = [self._bridge("temporal_net", level, temporal[level - 1]) for level in (1, 2, 3)]
        fused = [
            self._fusion(level, a, b) for level, a, b in zip((1, 2, 3), spatial_skips, temporal_skips, strict=True)
        ]
        return {
            "appearance": self._decode("spatial_net", spatial[3], fused),
            "motion": self._decode("temporal_net", temporal[3], temporal_skips),
        }

    # one stream

    def _stem(self, net: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.state[f"{net}.inconv.0.weight"], stride=2, padding=3)
        return F.max_pool2d(F.relu(self._norm(f"{net}.inconv.1", x)), 3, stride=2, padding=1)

    def _layer(self, name: str, x: Tensor, stride: int) -> Tensor:
        block = 0
        while f"{name}.{block}.conv1.weight" in self.state:
            x = self._block(f"{name}.{block}", x, stride if block == 0 else 1)
            block += 1
        return x

    def _block(self, name: str, x: Tensor, stride: int) -> Tensor:
        strides = (1, stride, 1) if f"{name}.conv3.weight" in self.state else (stride, 1)
        out = x
        for i, step in enumerate(strides, start=1):
            weight = self.state[f"{name}.conv{i}.weight"]
            groups = out.shape[1] // weight.shape[1]
            out = F.conv2d(out, weight, stride=step, padding=weight.shape[2] // 2, groups=groups)
            out = self._norm(f"{name}.bn{i}", out)
            if i < len(strides):
                out = F.relu(out)
        if f"{name}.downsample.0.weight" in self.state:
            x = F.conv2d(x, self.state[f"{name}.downsample.0.weight"], stride=stride)
            x = self._norm(f"{name}.downsample.1", x)
        return F.relu(out + x)

    def _decode(self, net: str, x: Tensor, skips: list[Tensor]) -> list[Tensor]:
        first = self._conv_norm_relu(f"{net}.dilation0", x) if f"{net}.dilation0.0.weight" in self.state else x
        maps = [first] + [
            self._conv_norm_relu(f"{net}.dilation{i}", x, dilation=d) for i, d in ((1, 1), (2, 2), (3, 4), (4, 8))
        ]
        x = self._decoder_stage(f"{net}.decoder4", torch.cat(maps, 1))
        decoded = {4: x}
        for level in (3, 2, 1):
            skip = skips[level - 1]
            x = self._decoder_stage(f"{net}.decoder{level}", torch.cat([_bilinear(x, skip.shape[2:]), skip], 1))
            decoded[level] = x
        size = torch.Size(4 * side for side in decoded[1].shape[2:])
        return [self._side_output(f"{net}.out{level}", decoded[level], size) for level in (1, 2, 3, 4)]

    def _decoder_stage(self, name: str, x: Tensor) -> Tensor:
        for conv, norm in ((0, 1), (3, 4), (6, 7)):
            x = F.conv2d(x, self.state[f"{name}.layer.{conv}.weight"], padding=1)
            x = F.relu(self._norm(f"{name}.layer.{norm}", x))
        return x

    def _side_output(self, name: str, x: Tensor, size: torch.Size) -> Tensor:
        x = _bilinear(self._conv_norm_relu(f"{name}.conv1", x), size)
        return self._conv(f"{name}.conv2", x).sigmoid()

    def _bridge(self, net: str, level: int, x: Tensor) -> Tensor:
        name = f"{net}.bridge{level}"
        return self._conv_norm_relu(name, x) if f"{name}.0.weight" in self.state else x

    # between the streams

    def _exchange(self, level: int, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        ss = torch.cat(self._pair(f"SSTransformer{level}", level, s[:1], s[1:]))
        tt = torch.cat(self._pair(f"TTTransformer{level}", level, t[:1], t[1:]))
        frames = [self._pair(f"STTransformer{level}", level, s[i : i + 1], t[i : i + 1]) for i in (0, 1)]
        st_s, st_t = torch.cat([frames[0][0], frames[1][0]]), torch.cat([frames[0][1], frames[1][1]])
        self_s = torch.cat([self._single(f"SselfTransformer{level}", level, s[i : i + 1]) for i in (0, 1)])
        self_t = torch.cat([self._single(f"TselfTransformer{level}", level, t[i : i + 1]) for i in (0, 1)])
        return ss + self_s + st_s + s, tt + self_t + st_t + t

    def _pair(self, name: str, level: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        f = self._excitation(f"{name}.scaling", torch.cat([x, y], 1))
        x = x * f[:, :channels] + x
        y = y * f[:, channels:] + y
        second = "transformation2" if f"{name}.transformation2.query.weight" in self.state else "transformation1"
        x = self._attention(f"{name}.transformation1", level, x, y)
        y = self._attention(f"{name}.{second}", level, y, x)
        g = self._conv(f"{name}.gating.conv.0", torch.cat([x, y], 1)).sigmoid()
        return x * g[:, :1] + x, y * g[:, 1:] + y

    def _single(self, name: str, level: int, x: Tensor) -> Tensor:
        x = x * self._excitation(f"{name}.scaling", x) + x
        x = self._attention(f"{name}.transformation", level, x, x)
        return x * self._conv(f"{name}.gating.conv.0", x).sigmoid() + x

    def _attention(self, name: str, level: int, x: Tensor, y: Tensor) -> Tensor:
        size = x.shape[2:]
        if level == 1:
            x, y = F.max_pool2d(x, 3, 2, 1), F.max_pool2d(y, 3, 2, 1)
        q, k, v = self._conv(f"{name}.query", x), self._conv(f"{name}.key", y), self._conv(f"{name}.value", y)
        width = x.shape[1] // HEADS[level]
        heads = []
        for start in range(0, x.shape[1], width):
            some = slice(start, start + width)
            one_q, one_k, one_v = (p[0, some].flatten(1).T for p in (q, k, v))  # each (P, width)
            heads.append(attention(one_q, one_k, one_v, level in self.transposed).T)
        out = torch.cat(heads).reshape(1, *x.shape[1:])
        return _bilinear(out, size) if level == 1 else out

    def _fusion(self, level: int, s: Tensor, t: Tensor) -> Tensor:
        name = f"Transformerstafm{level}"
        f = self._excitation(f"{name}.channel", torch.cat([s, t], 1))
        s, t = s * f, t * (1 - f)
        summary = [s.mean(1), s.max(1).values, t.mean(1), t.max(1).values]
        a = F.conv2d(torch.stack(summary, 1), self.state[f"{name}.spatial.conv1.weight"], padding=3).sigmoid()
        return s * a + t * (1 - a)

    # layers

    def _excitation(self, name: str, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return self._conv(f"{name}.fc2", F.relu(self._conv(f"{name}.fc1", pooled))).sigmoid()

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _conv_norm_relu(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.0.weight"]
        x = F.conv2d(x, weight, padding=dilation * (weight.shape[2] // 2), dilation=dilation)
        return F.relu(self._norm(f"{name}.1", x))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = (None, None) if self.training else (self.state[f"{name}.running_{x}"] for x in ("mean", "var"))
        return F.batch_norm(x, mean, var, self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.training)


def attention(q: Tensor, k: Tensor, v: Tensor, transposed: bool) -> Tensor:
    """One head of one sample, with its whole matrix: each (P, d) -> (P, d)."""
    a: Tensor = (q @ k.T / q.shape[1] ** 0.5).softmax(1)
    return a.T @ v if transposed else a @ v


def loss(p: Tensor, y: Tensor) -> Tensor:
    """Of one side map, probabilities p and masks y (N, 1, H, W): BCE + (1 - SSIM) + (1 - soft IoU)."""
    bce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    return bce + (1 - ssim(p, y)) + (1 - soft_iou(p, y))


def ssim(p: Tensor, y: Tensor) -> Tensor:
    places = torch.arange(11, dtype=torch.float64) - 5
    line = (-(places**2) / (2 * 1.5**2)).exp().float()
    line = line / line.sum()
    window = torch.outer(line, line).to(p)[None, None]
    mu_p, mu_y = F.conv2d(p, window, padding=5), F.conv2d(y, window, padding=5)
    var_p = F.conv2d(p * p, window, padding=5) - mu_p * mu_p
    var_y = F.conv2d(y * y, window, padding=5) - mu_y * mu_y
    cov = F.conv2d(p * y, window, padding=5) - mu_p * mu_y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mu_p * mu_y + c1) * (2 * cov + c2) / ((mu_p * mu_p + mu_y * mu_y + c1) * (var_p + var_y + c2))
    return value.mean()


def soft_iou(p: Tensor, y: Tensor) -> Tensor:
    each = []
    for one, mask in zip(p, y, strict=True):
        both = (one * mask).sum()
        each.append(both / (one.sum() + mask.sum() - both))
    return torch.stack(each).mean()


def _bilinear(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
