"""The tokenizer of the built-in task: one token a character."""

from npo_core.problems.chain import OPERATORS

PAD, EOS = "<pad>", "<eos>"


def make_tokenizer():
    """A `PreTrainedTokenizerFast` over digits, operators, `=`, and the two special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [PAD, EOS, *"0123456789", *OPERATORS, "="]
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left")
