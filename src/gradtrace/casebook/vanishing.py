"""Networks whose gradient shrinks on its way back, one for each reason that is not a recurrence or a saturation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, Attention, Block, TokenModel, conv_net, layer, mlp, scale_weights
from gradtrace.casebook.tasks import cross_entropy, digit_batches, image_batches, token_batches, token_cross_entropy
from gradtrace.records.vocabulary import Cause, Symptom


@seeded
def deep_sigmoid() -> Setup:
    """24 sigmoid layers on digits: each derivative is at most 0.25, and default weights offset nothing."""
    return Setup(mlp(24, nn.Sigmoid), cross_entropy, digit_batches())


class FunctionalSigmoid(nn.Module):
    """Plain parameters, ``torch.sigmoid`` and ``@``: no submodule at all."""

    def __init__(self, depth: int, width: int = 48) -> None:
        super().__init__()
        sizes = [64, *[width] * depth, 10]
        self.weights = nn.ParameterList(nn.init.xavier_normal_(torch.empty(a, b)) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        *hidden, last = self.weights
        for weight in hidden:
            x = torch.sigmoid(x @ weight)
        out: Tensor = x @ last
        return out


@seeded
def functional_sigmoid() -> Setup:
    """12 sigmoid layers written as functions, Xavier weights of gain 1: 0.25 per layer remains."""
    return Setup(FunctionalSigmoid(12), cross_entropy, digit_batches())


@seeded
def conv_sigmoid() -> Setup:
    """10 convolutions with sigmoids, Xavier-like weights."""
    model = conv_net(10, nn.Sigmoid)
    scale_weights(model, 1.0)
    return Setup(model, cross_entropy, image_batches())


@seeded
def softmax_hidden() -> Setup:
    """Softmax over 64 hidden units, three times: each derivative is p (1 - p), about 1/64."""
    model = mlp(3, lambda: nn.Softmax(dim=1))
    scale_weights(model, 1.0)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def small_std() -> Setup:
    """10 ReLU layers drawn with a standard deviation of 0.01, as AlexNet's were: each passes on 6 %."""
    model = mlp(10, nn.ReLU)
    scale_weights(model, 0.01 * 8)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def default_init() -> Setup:
    """30 ReLU layers as torch initialises them: Var(w) = 1 / (3 fan_in) is a sixth of He's, 0.41 per layer."""
    return Setup(mlp(30, nn.ReLU), cross_entropy, digit_batches())


@seeded
def small_conv() -> Setup:
    """A VGG-like stack of 10 convolutions drawn with a standard deviation of 0.01."""
    model = conv_net(10, nn.ReLU)
    scale_weights(layer(model, "features"), 0.01 * 12)
    return Setup(model, cross_entropy, image_batches())


@seeded
def one_small_layer() -> Setup:
    """A healthy ReLU network in which one layer alone was scaled by 1e-4."""
    model = mlp(6, nn.ReLU)
    scale_weights(model, HE)
    with torch.no_grad():
        layer(model, "hidden.linear4").weight.mul_(1e-4)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def deep_tanh() -> Setup:
    """200 tanh layers with a gain of 0.95: each is as good as right, and all of them lose 4 decades and more."""
    model = mlp(200, nn.Tanh)
    scale_weights(model, 0.95)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def plain_conv() -> Setup:
    """100 convolutions without skips, 8 % short of He's gain: each is as good as right."""
    model = conv_net(100, nn.ReLU)
    scale_weights(model, 0.92 * HE)
    return Setup(model, cross_entropy, image_batches(8))


class DeepLinear(nn.Module):
    """y = W x over and over, each W orthogonal times `gain`."""

    def __init__(self, depth: int, gain: float, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.weights = nn.ParameterList(nn.init.orthogonal_(torch.empty(width, width), gain) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        x = self.stem(x)
        for weight in self.weights:
            x = F.linear(x, weight)
        out: Tensor = self.head(x)
        return out


@seeded
def contracting_linear() -> Setup:
    """150 orthogonal layers times 0.93: 0.93^150 = 2e-5 exactly."""
    return Setup(DeepLinear(150, 0.93), cross_entropy, digit_batches())


class SignalBlock(nn.Module):
    """Attention and map with skips as in `Block`, and the position's signal added to the sum in every block."""

    def __init__(self, dim: int, length: int, *, pre: bool) -> None:
        super().__init__()
        self.block = Block(dim, Attention(dim), pre=pre)
        self.signal = nn.Parameter(torch.randn(length, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] -> the same."""
        block = self.block
        if block.pre:
            x = x + block.attention(block.norm1(x)) + self.signal
            return x + block.feed(block.norm2(x))
        x = block.norm1(x + block.attention(x) + self.signal)
        out: Tensor = block.norm2(x + block.feed(x))
        return out


def signal_model(*, pre: bool) -> TokenModel:
    """30 blocks; `pre` is the twin that is well."""
    return TokenModel([SignalBlock(32, 16, pre=pre) for _ in range(30)], 32)


@seeded
def post_norm() -> Setup:
    """30 blocks, norm after the sum x + f(x) + signal: each divides the skip, and nothing makes up for it."""
    return Setup(signal_model(pre=False), token_cross_entropy, token_batches())


class Captioner(nn.Module):
    """A deep ``nn.TransformerDecoder`` over four features of an image, with Xavier weights as ``nn.Transformer``'s."""

    def __init__(self, depth: int, *, pre: bool, dim: int = 32, vocabulary: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(dim, 4, 64, dropout=0.0, batch_first=True, norm_first=pre)
        self.embedding, self.head = nn.Embedding(vocabulary, dim), nn.Linear(dim, vocabulary)
        self.decoder = nn.TransformerDecoder(layer, depth)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens [batch, length] and image features [batch, 4, dim] -> [batch, length, vocabulary]."""
        tokens, image = inputs
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        out: Tensor = self.head(self.decoder(self.embedding(tokens), image, tgt_mask=mask))
        return out


def caption_batches() -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Tokens and four features of one image, which resemble each other."""
    images = [1.5 * torch.randn(16, 1, 32) + 0.5 * torch.randn(16, 4, 32) for _ in range(2)]
    return [((tokens, image), labels) for (tokens, labels), image in zip(token_batches(), images, strict=True)]


@seeded
def post_norm_decoder() -> Setup:
    """28 decoder layers, norm_first=False: what is read from the image enters the sum, the norm shrinks the skip."""
    return Setup(Captioner(28, pre=False), token_cross_entropy, caption_batches())


_V = Symptom.VANISHING
CASES = (
    Case("deep_sigmoid", deep_sigmoid, _V, Cause.ACTIVATION_DERIVATIVE, ("hidden",), "Glorot and Bengio 2010"),
    Case(
        "functional_sigmoid",
        functional_sigmoid,
        _V,
        Cause.ACTIVATION_DERIVATIVE,
        (),
        "Hochreiter 1991; Nielsen 2015, ch. 5",
    ),
    Case("conv_sigmoid", conv_sigmoid, _V, Cause.ACTIVATION_DERIVATIVE, ("features",), "DeepFD (Cao et al. 2022)"),
    Case(
        "softmax_hidden", softmax_hidden, _V, Cause.ACTIVATION_DERIVATIVE, ("hidden",), "stackoverflow.com/q/37588632"
    ),
    Case("small_std", small_std, _V, Cause.SMALL_WEIGHTS, ("hidden",), "He et al. 2015, section 2.2"),
    Case("default_init", default_init, _V, Cause.SMALL_WEIGHTS, ("hidden",), "pytorch issue 15314; He et al. 2015"),
    Case(
        "small_conv", small_conv, _V, Cause.SMALL_WEIGHTS, ("features",), "He et al. 2015; Simonyan 2015, section 3.1"
    ),
    Case("one_small_layer", one_small_layer, _V, Cause.SMALL_WEIGHTS, ("hidden.linear4",), "Humbatova et al. 2020"),
    Case("deep_tanh", deep_tanh, _V, Cause.DEPTH_WITHOUT_SKIP, ("hidden",), "Schoenholz et al. 2017"),
    Case("plain_conv", plain_conv, _V, Cause.DEPTH_WITHOUT_SKIP, ("features",), "He et al. 2016; Xiao et al. 2018"),
    Case("contracting_linear", contracting_linear, _V, Cause.DEPTH_WITHOUT_SKIP, ("weights",), "Saxe et al. 2014"),
    Case("post_norm", post_norm, _V, Cause.POST_NORM, ("blocks",), "Xiong et al. 2020; Dehghani et al. 2019, eq. 4"),
    Case(
        "post_norm_decoder", post_norm_decoder, _V, Cause.POST_NORM, ("decoder",), "Liu et al. 2020; Takase et al. 2023"
    ),
)
