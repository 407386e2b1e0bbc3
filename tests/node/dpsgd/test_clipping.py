"""Ghost norms and clipped sums against autograd, record by record; and what is refused, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from node.dpsgd.clipping import SLACK, Clipper
from swarm.errors import UsageError

torch.set_num_threads(1)


class Twice(nn.Module):
    """One layer, used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class Pooled(nn.Module):
    """Words to their mean, through a layer at each position."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6, padding_idx=padding)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.words(x))).mean(1)


class Bare(nn.Module):
    """A parameter that belongs to no known layer, beside one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale)


class Last(nn.Module):
    """Words through a recurrent layer; of its outputs the last states alone, whose first dimension is layers."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, *, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.inner = kind(4, 3, num_layers=layers, batch_first=True, dropout=dropout)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.inner(self.words(x))
        return self.out((last[0] if isinstance(last, tuple) else last)[-1])


class Attending(nn.Module):
    """Attention of a record to itself, with words after a place masked by record."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 2)
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.words(x)
        return self.out(self.inner(a, a, a, key_padding_mask=x == 6, need_weights=False)[0].mean(1))


def images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(6, *shape)


def words() -> Tensor:
    return torch.randint(0, 7, (6, 5))


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten())


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), images(5)),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), images(5)),
    "few positions": (lambda: flat(nn.Linear(9, 8)), images(3, 9)),
    "many positions": (lambda: flat(nn.Linear(2, 2)), images(11, 2)),
    "two dimensions of positions": (lambda: flat(nn.Linear(4, 3)), images(2, 3, 4)),
    "conv1d": (lambda: flat(nn.Conv1d(3, 4, 3, padding=1)), images(3, 8)),
    "conv2d, small images": (lambda: flat(nn.Conv2d(8, 16, 3, stride=2)), images(8, 5, 5)),
    "conv2d, large images": (lambda: flat(nn.Conv2d(2, 3, 3, dilation=2, bias=False)), images(2, 11, 11)),
    "conv2d, same and reflected": (
        lambda: flat(nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")),
        images(2, 6, 6),
    ),
    "conv2d, groups": (lambda: flat(nn.Conv2d(4, 6, 3, groups=2, stride=(1, 2), padding=(0, 1))), images(4, 7, 7)),
    "conv3d": (lambda: flat(nn.Conv3d(2, 3, 2)), images(2, 4, 4, 4)),
    "group norm": (
        lambda: flat(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        images(3, 7, 7),
    ),
    "layer norm of two dimensions": (lambda: flat(nn.LayerNorm((3, 4))), images(3, 4)),
    "embedding": (Pooled, words),
    "embedding with padding": (lambda: Pooled(padding=2), words),
    "a layer used twice": (Twice, images(5)),
    "a parameter of its own": (Bare, images(3)),
    "a slope": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)), images(3)),
    "transposed convolution": (lambda: flat(nn.ConvTranspose2d(2, 3, 3, stride=2)), images(2, 4, 4)),
    "normalisation by root mean square": (lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4)), images(3)),
    "lstm, last states": (Last, words),
    "gru, as many layers as records": (lambda: Last(nn.GRU, layers=6), words),
    "attention": (Attending, words),
}


def records_of(model: nn.Module, losses: Tensor) -> list[dict[str, Tensor]]:
    """Autograd's gradients, one record after the other."""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    found = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, [*trained.values()], retain_graph=True, allow_unused=True)
        found.append(
            {n: torch.zeros_like(trained[n]) if g is None else g for n, g in zip(trained, gradients, strict=True)}
        )
    return found


def norm_of(gradients: dict[str, Tensor]) -> float:
    return float(torch.sqrt(sum((one.double().square().sum() for one in gradients.values()), torch.zeros(()))))


def losses_of(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    out = model(x).flatten(1)
    return (out * torch.randn_like(out)).sum(1).sin() * torch.arange(1.0, len(x) + 1)


@pytest.mark.parametrize("kind", MODELS)
def test_the_sum_is_of_gradients_each_clipped_as_autograd_computes_them(kind: str) -> None:
    torch.manual_seed(1)
    build, draw = MODELS[kind]
    model, x = build(), draw()
    each = records_of(model, losses_of(model, x))
    norms = sorted(map(norm_of, each))
    bound = norms[3]  # Some are longer, some shorter.
    with Clipper(model) as clipper:
        ours = clipper.clipped(losses_of(model, x), bound)
    for name in each[0]:
        factors = [min(1.0, bound * (1 - SLACK) / norm_of(one)) for one in each]
        true = sum(one[name] * factor for one, factor in zip(each, factors, strict=True))
        assert torch.allclose(ours[name], torch.as_tensor(true), rtol=1e-5, atol=1e-6 * bound), name


@pytest.mark.parametrize("kind", MODELS)
def test_no_record_moves_the_sum_by_more_than_the_bound(kind: str) -> None:
    """The claim that noise is scaled by: of one record alone the sum has a norm of the bound at most."""
    torch.manual_seed(2)
    build, draw = MODELS[kind]
    model, x = build(), draw()
    for row in range(3):
        with Clipper(model) as clipper:
            alone = clipper.clipped(1000 * losses_of(model, x[row : row + 1]), 0.01)
        assert norm_of(alone) <= 0.01


def test_norms_are_autograds_to_a_millionth() -> None:
    """Clipped to a millionth of their length, gradients keep only their direction: what is off then is the norm."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    for x in torch.randn(5, 1, 1, 8, 8).double():
        true = records_of(model, losses_of(model, x))[0]
        bound = 1e-6 * norm_of(true)
        with Clipper(model) as clipper:
            assert norm_of(clipper.clipped(losses_of(model, x), bound)) == pytest.approx(bound * (1 - SLACK), rel=1e-6)


def test_frozen_parts_neither_count_nor_get_a_gradient() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval().requires_grad_(False)
    model[2].bias.requires_grad_(False)
    x = torch.randn(4, 4)
    each = records_of(model, losses_of(model, x))
    with Clipper(model) as clipper:
        ours = clipper.clipped(losses_of(model, x), 1e9)
    assert set(ours) == {"0.weight", "0.bias", "2.weight"} == set(each[0])


class Elsewhere(nn.Module):
    """Its layer's weight is used where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + functional.linear(x, self.inner.weight)


class Mixing(nn.Module):
    """What batch normalisation does, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return self.out(x - x.mean(0))


class Inside(nn.Module):
    """A parameter of its own, and something else within."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(3)), inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale)


class Centred(nn.Module):
    """What batch normalisation does, where no hook sees it: within a layer of which nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.scale


class Taking(nn.Module):
    """A layer with a second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, more: object) -> Tensor:
        return x * self.scale


class Given(nn.Module):
    """Gives the layer within a second argument; of a list tensors."""

    def __init__(self, more: object) -> None:
        super().__init__()
        self.inner, self.more = Taking(), more

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, [x] if isinstance(self.more, list) else self.more)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
            "BatchNorm1d 1 makes each record's gradient depend",
        ),
        (lambda: Inside(torch.nn.Dropout(0.5)), r"inner \(Dropout\) drops at random within a layer"),
        (Centred, "the gradient of scale does not come from its own layer alone"),
        (lambda: Given([1]), "was given tensors within a list"),
        (lambda: Given(slice(3)), "was given a slice, which is not by record"),
        (lambda: Given(torch.ones(3)), "was given 3 rows for 4 records"),
        (tied, "1.weight and 0.weight are one parameter"),
        (Elsewhere, "the gradient of inner.weight does not come from its own layer alone"),
        (Mixing, "through inner the loss of one record depends on other records"),
    ],
)
def test_what_cannot_be_clipped_is_refused_by_name(build: Callable[[], nn.Module], why: str) -> None:
    model, x = build(), torch.randn(4, 3)
    with pytest.raises(UsageError, match=why), Clipper(model) as clipper:
        clipper.clipped(model(x).sum(1).square(), 1.0)


def test_a_recurrent_layer_that_drops_at_random_is_refused() -> None:
    with pytest.raises(UsageError, match=r"inner \(LSTM\) drops at random"), Clipper(model := Last(dropout=0.3)):
        model(words())


def test_a_loss_of_the_whole_batch_and_gradients_that_are_no_numbers_are_refused() -> None:
    model, x = nn.Linear(3, 1), torch.randn(4, 3)
    with Clipper(model) as clipper:
        with pytest.raises(UsageError, match="was given 4 rows for 1 records"):
            clipper.clipped(model(x).mean().reshape(1), 1.0)
        with pytest.raises(UsageError, match="not finite"):
            clipper.clipped((model(x).squeeze(1) * 0.0).sqrt() + model(x).squeeze(1), 1.0)
