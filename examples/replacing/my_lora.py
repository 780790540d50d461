"""A LoRA configuration of your own, with a knob of its own: feed-forward layers alone."""

from peft import LoraConfig, PeftConfig
from transformers import PreTrainedModel


def lora_config(base_model: PreTrainedModel, feed_forward_rank: int = 4) -> PeftConfig:
    """Replaces the node of the same name; any of PEFT's configurations will do."""
    return LoraConfig(r=feed_forward_rank, lora_alpha=2 * feed_forward_rank, target_modules=["wi_0", "wi_1", "wo"])
