"""FusionNet: news tokens and session tokens -> P(up), mean and sd of the next return, severity and thresholds.

    news items ----> tokens --+--> attention to sessions --> pooled --+
                              |                                       +--> dropout -> dense -> severity gate
    sessions ------> tokens --+--> attention to news ------> pooled --+      -> dropout -> p_up, mean, sd

Everything before the first dropout is the same for every Monte-Carlo sample, so it runs once for all of them. With
`sticky_p` > 0 training also masks features of sessions before that, for runs of sessions; inference never does.
Which parts exist is configuration (`ModelConfig`): `fusion=concat` pools both sides without attention between them,
`fusion=none` has one side only, `severity_gate=false` leaves the gate open.

Thresholds: a session with score cs is overhype to the degree sigmoid((cs - tau_over) / T), underhype likewise with
-cs - tau_under. What is left of earlier ones fades by a learned factor a session, and the two sums go straight to the
heads: tau and the factor get their gradients from the loss. In evaluation mode the sigmoids are steps.

Scalers are buffers of the module: tokens come unscaled, and a checkpoint cannot be used with scalers that are not its
own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion_alpha.config import ModelConfig
from fusion_alpha.plain_dropout import plain_dropout
from fusion_alpha.samples import NEWS_FEATURES, Batch
from kernels.torch_front import dropout, sticky_dropout

FEATURE_CLIP = 5.0  # scaled features, in sd
TEMPERATURE = 0.1  # T, in standard deviations of the contradiction score
SD_FLOOR = 1e-2  # of the return head, in units of the trailing volatility
DROPOUTS: dict[str, Callable[..., Tensor]] = {"bicep": dropout, "torch": plain_dropout}  # by model.mask
_SD_ONE = 0.5413  # softplus^-1(1)


@dataclass(frozen=True)
class Noise:
    """Which dropout and sticky masks a pass uses; the latter only in training, one a row, for all samples the same.

    share_rows: one dropout mask for all rows (inference), else one a row of the global batch, where the first row is
    row `first_row`.
    """

    step: int = 0
    samples: int = 1
    share_rows: bool = False
    first_row: int = 0


@dataclass(frozen=True)
class Output:
    """[B] each, [S, B] with S > 1 samples; mean and sd in units of the row's trailing volatility."""

    logit: Tensor
    mean: Tensor
    sd: Tensor
    severity: Tensor


class Scaler(nn.Module):
    """(x - mean) / sd, clipped to +-FEATURE_CLIP; unknown values (NaN) become 0, the mean."""

    mean: Tensor
    sd: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("sd", torch.ones(n_features))

    def fit(self, x: Tensor) -> None:
        """Moments of the columns of x [n, features] over their known values; a constant column is only centred."""
        known = ~torch.isnan(x)
        count = known.sum(dim=0).clamp(min=1)
        mean = x.double().nan_to_num().sum(dim=0) / count
        sd = ((x.double() - mean).nan_to_num().square().sum(dim=0) / count).sqrt()
        self.mean.copy_(mean)
        self.sd.copy_(torch.where(sd > 1e-6 * (1 + mean.abs()), sd, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.sd).clamp(-FEATURE_CLIP, FEATURE_CLIP).nan_to_num()


class Thresholds(nn.Module):
    """Learned tau_over, tau_under > 0, in standard deviations of the score, and what a session leaves of a kind."""

    def __init__(self, over: float, under: float) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.empty(2))
        self.fade = nn.Parameter(torch.empty(1))
        self.start = (over, under)

    def tau(self) -> Tensor:
        """[2]: over, under."""
        return functional.softplus(self.raw)

    def persistence(self) -> Tensor:
        """[1], in (0, 1): the share that is left after one session."""
        return torch.sigmoid(self.fade)

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """score, mask [B, L] -> overhype and underhype [B, 2], the latest session in full, earlier ones faded.

        A session counts to the degree of a sigmoid in training, else as 0 or 1. One factor in place of a weight for
        each lag: the effect is a few hundredths of a standard deviation, and 2 L free weights are noise beside it.
        """
        excess = torch.stack([score, -score], dim=-1) - self.tau()  # (B, L, 2)
        degree = torch.sigmoid(excess / TEMPERATURE) if self.training else (excess >= 0).to(score.dtype)
        age = torch.arange(score.shape[-1] - 1, -1, -1, device=score.device)
        left = self.persistence() ** age * mask  # (B, L)
        return (degree * left.unsqueeze(-1)).sum(dim=-2)


class Block(nn.Module):
    """Residual layers: attention to the other side's tokens where there is one, then position-wise feed-forward."""

    def __init__(self, width: int, heads: int, attend: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True) if attend else None
        self.norm_attention = nn.LayerNorm(width) if attend else None
        self.norm_dense = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, other: Tensor | None, other_mask: Tensor | None) -> Tensor:
        """tokens [B, T, W], other [B, U, W] with its mask [B, U] (True = token) -> [B, T, W]."""
        if self.attention is not None and self.norm_attention is not None:
            assert other is not None, "attention without the other side's tokens"
            assert other_mask is not None, "attention without the other side's mask"
            query = self.norm_attention(tokens)
            seen, _ = self.attention(query, other, other, key_padding_mask=~other_mask, need_weights=False)
            tokens = tokens + seen
        return cast(Tensor, tokens + self.dense(self.norm_dense(tokens)))

    def weights(self, tokens: Tensor, other: Tensor, other_mask: Tensor) -> Tensor | None:
        """How much each token takes from each of the other side's, [B, T, U], mean of the heads; None without."""
        if self.attention is None or self.norm_attention is None:
            return None
        query = self.norm_attention(tokens)
        _, weights = self.attention(query, other, other, key_padding_mask=~other_mask, need_weights=True)
        return cast(Tensor, weights)


class Pool(nn.Module):
    """Mean of the tokens, weighted by their softmax similarity to a learned query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, T]; 0 where masked."""
        return cast(Tensor, self.query(tokens).squeeze(-1).masked_fill(~mask, -torch.inf).softmax(dim=-1))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return (self.weights(tokens, mask).unsqueeze(-1) * tokens).sum(dim=1)  # (B, W)


class FusionNet(nn.Module):
    """The one constructor of every variant.

    n_features: of a session; text_dim: of an embedding; tau: where the thresholds start (over, under);
    seed: of the weights and of the dropout masks.
    """

    def __init__(
        self, model: ModelConfig, *, n_features: int, text_dim: int, tau: tuple[float, float], seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self.dropout = DROPOUTS[model.mask]
        width = model.width
        with torch.device("meta"):  # draws nothing from torch's global generator; `_draw_weights` fills the values
            attend = model.fusion == "attention"
            if model.use_technical:
                self.scale_sessions = Scaler(n_features)
                self.sessions = nn.Linear(n_features, width)
                self.position = nn.Parameter(torch.empty(model.sessions, width))
                self.norm_sessions = nn.LayerNorm(width)
                self.session_block = Block(width, model.heads, attend)
                self.session_pool = Pool(width)
            if model.use_contradiction:
                self.thresholds = Thresholds(*tau)
            if model.use_text:
                self.scale_news = Scaler(len(NEWS_FEATURES))
                self.news = nn.Linear(text_dim, width)
                self.news_additions = nn.Linear(len(NEWS_FEATURES), width, bias=False)
                self.lag = nn.Parameter(torch.empty(model.news_lookback_bars, width))
                self.no_news = nn.Parameter(torch.empty(width))
                self.norm_news = nn.LayerNorm(width)
                self.news_block = Block(width, model.heads, attend)
                self.news_pool = Pool(width)
            self.norm_state = nn.LayerNorm(width * self.n_summaries)
            self.state = nn.Linear(width * self.n_summaries, width)
            self.gate = nn.Linear(width, 1) if model.severity_gate else None
            self.heads = nn.Linear(width + 2 * model.use_contradiction, 3)  # logit of p_up, mean, softplus^-1 of sd
        self.to_empty(device="cpu")
        self._draw_weights(torch.Generator().manual_seed(seed))

    @property
    def n_summaries(self) -> int:
        """Vectors that are fused: the row's own session, the pooled sessions, the pooled news."""
        return 2 * self.model.use_technical + self.model.use_text

    def _draw_weights(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, Scaler):
                module.mean.zero_()
                module.sd.fill_(1.0)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "norm" in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                elif name == "thresholds.fade":
                    parameter.zero_()  # one half
                elif name == "thresholds.raw":
                    parameter.copy_(torch.tensor(np.log(np.expm1(self.thresholds.start))))
                elif name in ("position", "lag", "no_news"):
                    nn.init.normal_(parameter, std=0.1, generator=generator)
                else:
                    nn.init.xavier_uniform_(parameter, generator=generator)
            self.heads.weight.mul_(0.1)  # start near "I know nothing": p_up = 1/2, mean 0, sd 1
            self.heads.bias[2] = _SD_ONE

    def tau(self) -> tuple[float, float] | None:
        """Thresholds (over, under) in standard deviations; None where the model sees no contradiction score."""
        if not self.model.use_contradiction:
            return None
        over, under = self.thresholds.tau().tolist()
        return over, under

    def forward(self, batch: Batch, noise: Noise | None = None) -> Output:
        """Without `noise` nothing is dropped (expected masks)."""
        state = self.encode(batch, noise)
        hidden = functional.gelu(self.state(self._drop(state, noise, layer=0)))  # ([S,] B, W)
        severity = hidden.new_ones(hidden.shape[:-1])
        if self.gate is not None:
            severity = torch.sigmoid(self.gate(hidden)).squeeze(-1)
            hidden = severity.unsqueeze(-1) * hidden
        hidden = self._drop(hidden, noise, layer=1)
        if self.model.use_contradiction:
            degrees = self.thresholds(batch.score, batch.session_mask)  # (B, 2)
            hidden = torch.cat([hidden, degrees.expand(*hidden.shape[:-1], -1)], dim=-1)
        logit, mean, spread = self.heads(hidden).unbind(-1)
        return Output(logit, mean, functional.softplus(spread) + SD_FLOOR, severity)

    def encode(self, batch: Batch, noise: Noise | None = None) -> Tensor:
        """The state before the first dropout, [B, n_summaries x W]; noise: of sticky masks, which only training has."""
        sessions = self._session_tokens(batch, noise) if self.model.use_technical else None
        news, news_mask = self._news_tokens(batch) if self.model.use_text else (None, None)
        summaries = []
        if sessions is not None:
            seen = self.session_block(sessions, news, news_mask)
            summaries += [seen[:, -1], self.session_pool(seen, batch.session_mask)]
        if news is not None:
            summaries.append(self.news_pool(self.news_block(news, sessions, batch.session_mask), news_mask))
        return cast(Tensor, self.norm_state(torch.cat(summaries, dim=-1)))

    @torch.no_grad()
    def attention_maps(self, batch: Batch) -> dict[str, Tensor]:
        """Where the network looks, those of its parts that exist; every row of weights sums to 1.

        session_pool [B, L] and news_pool [B, 1 + N]: shares in the pooled summaries; sessions_to_news [B, L, 1 + N] and
        news_to_sessions [B, 1 + N, L]: attention, mean of the heads. The first news token stands for "no news".
        """
        maps: dict[str, Tensor | None] = {}
        sessions = self._session_tokens(batch, None) if self.model.use_technical else None
        news, news_mask = self._news_tokens(batch) if self.model.use_text else (None, None)
        if sessions is not None and news is not None and news_mask is not None:
            maps["sessions_to_news"] = self.session_block.weights(sessions, news, news_mask)
            maps["news_to_sessions"] = self.news_block.weights(news, sessions, batch.session_mask)
        if sessions is not None:
            seen = self.session_block(sessions, news, news_mask)
            maps["session_pool"] = self.session_pool.weights(seen, batch.session_mask)
        if news is not None and news_mask is not None:
            seen = self.news_block(news, sessions, batch.session_mask)
            maps["news_pool"] = self.news_pool.weights(seen, news_mask)
        return {name: value for name, value in maps.items() if value is not None}

    def _session_tokens(self, batch: Batch, noise: Noise | None) -> Tensor:
        features = self._stick(self.scale_sessions(batch.sessions), noise)  # (B, L, F)
        tokens = self.sessions(features) + self.position  # (B, L, W)
        return cast(Tensor, self.norm_sessions(tokens))

    def _news_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, 1 + N, W) and their mask; the first is learned and always there, for rows without news."""
        unit = batch.news * batch.news.shape[-1] ** 0.5  # entries of a unit vector -> about 1
        tokens = self.news(unit) + self.news_additions(self.scale_news(batch.news_features)) + self.lag[batch.news_lag]
        none = self.no_news.expand(len(tokens), 1, -1)
        mask = torch.cat([batch.news_mask.new_ones(len(tokens), 1), batch.news_mask], dim=1)
        return self.norm_news(torch.cat([none, tokens], dim=1)), mask

    def _stick(self, x: Tensor, noise: Noise | None) -> Tensor:
        """x [B, L, F]; in training, features of a row missing for runs of sessions, the others scaled up for them."""
        p = self.model.sticky_p
        if noise is None or not self.training or p == 0:
            return x
        address = {"seed": self.seed, "step": noise.step, "layer": 0, "first_row": noise.first_row}
        return sticky_dropout(x, p, self.model.sticky_rho, **address)

    def _drop(self, x: Tensor, noise: Noise | None, layer: int) -> Tensor:
        """x [B, units] or, one slice a sample, [S, B, units]."""
        if noise is None:
            return x
        return self.dropout(
            x,
            self.model.dropout,
            seed=self.seed,
            step=noise.step,
            layer=layer,
            samples=noise.samples,
            stacked=x.ndim == 3,
            share_rows=noise.share_rows,
            first_row=noise.first_row,
        )
