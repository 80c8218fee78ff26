"""Small networks with a known illness or known health: tests, documentation and the demo use them.

`CASES` maps a name to its `Case`. Names are known without torch; a case's family is imported when it is asked for.

>>> "deep_sigmoid" in CASES, len(CASES) >= 60
(True, True)
>>> case = CASES["deep_sigmoid"]
>>> case.symptom.value, case.cause.value
('vanishing', 'activation_derivative')
>>> len(case.build().batches)
2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from gradtrace.casebook.case import Case, Setup

__all__ = ["CASES", "Case", "Setup"]

_FAMILIES = {
    "vanishing": (
        "deep_sigmoid functional_sigmoid conv_sigmoid softmax_hidden small_std default_init small_conv one_small_layer "
        "deep_tanh plain_conv contracting_linear post_norm post_norm_decoder"
    ),
    "exploding": (
        "twice_he randn_weights large_conv one_large_layer batchnorm_mlp batchnorm_conv residual_growth "
        "residual_growth_conv rate_regression rate_conv rate_adam large_targets raw_features summed_loss "
        "summed_tokens_loss negated_loss"
    ),
    "saturation": (
        "tanh_large_weights sigmoid_bias hardtanh_conv tanh_vanishing raw_pixels_tanh raw_measurements dead_layer "
        "dead_channels dead_feed dying_units unscaled_attention attention_entropy_collapse"
    ),
    "recurrent": (
        "rnn_last_step gru_last_step lstm_forgets contracting_loop expanding_loop expanding_relu_rnn "
        "shared_contracting shared_expanding"
    ),
    "wiring": (
        "detach data_attribute no_grad item argmax rounding plain_list plain_tensor replaced_head partial_optimizer"
    ),
    "loss": ("sigmoid_mse softmax_twice sigmoid_twice clamped_loss clamped_probability rounded_loss single_softmax"),
    "pairing": "divergence_of_probabilities batch_softmax bounded_logits straight_residual levels_cut_to_zero",
    "symmetry": "constant_weights constant_lstm",
    "numerics": "log_zero sqrt_zero self_distance zero_by_zero acos_one where_trap exp_overflow masked_row",
    "formats": (
        "half_overflow half_sum half_adam half_underflow half_conv_underflow bfloat16_steps bfloat16_adam "
        "float8_underflow"
    ),
    "learning": (
        "one_class clamped_residual softmax_absolute penalised_sigmoid unet_of_sigmoids targets_out_of_range "
        "counts_as_probabilities raw_features_adam minimax_game clipped_relu_output large_start handwritten_lstm "
        "faded_signal post_norm_in_training frozen_model padded_directions"
    ),
    "healthy_depth": (
        "prenorm_transformer selu_deep orthogonal_linear he_relu fixup rezero zero_head layer_scale highway "
        "checkpointing"
    ),
    "healthy_architectures": (
        "resnet densenet unet lstm_moderate gru_every_step vit mixture_density mobilenet siamese"
    ),
    "healthy_training": (
        "converged converged_regression frozen_backbone unused_head unrouted_experts mixture_of_experts "
        "sparse_embedding tied_weights accumulation tiny_units huge_units summed_loss_small_rate gan"
    ),
    "healthy_designs": (
        "dropout byol straight_through actor_critic lora ignored_labels causal_mask autocast weight_norm levels "
        "spectral_norm"
    ),
    "healthy_objectives": (
        "physics_informed signed_distance cosine_logits distilled variational_autoencoder contrastive_views "
        "truncated_time fourier_operator graph_network universal_perturbation"
    ),
    "healthy_learning": (
        "clamped_residual_near softmax_absolute_trained hinge_half_satisfied penalised_relu unet_with_skips "
        "default_relu_adam policy_head sigmoid_pixels raw_pixels_adam positive_output he_start wide_tanh "
        "handwritten_lstm_short pre_norm_in_training not_saturating_game constant_biases directions"
    ),
}
"""Module -> names of its cases."""


class Casebook(Mapping[str, Case]):
    """Name -> case, read-only; a family is imported on first use."""

    def __init__(self, families: Mapping[str, str]) -> None:
        self._family = {name: family for family, names in families.items() for name in names.split()}

    def __getitem__(self, name: str) -> Case:
        module = import_module(f"gradtrace.casebook.{self._family[name]}")
        found: Case = next(case for case in module.CASES if case.name == name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._family)

    def __len__(self) -> int:
        return len(self._family)

    def __contains__(self, name: object) -> bool:
        return name in self._family


CASES: Mapping[str, Case] = Casebook(_FAMILIES)
"""Every case by name, family by family."""
