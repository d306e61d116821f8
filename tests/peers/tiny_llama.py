# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Llama of random weights whose attention is peaked, with a tokenizer and a prompt: python tiny_llama.py FOLDER"""
import random
import sys

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS, TOKENS = 2048, 700


def make(folder):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=4096, bos_token_id=0, eos_token_id=None))
    for layer in model.model.layers:  # fresh weights attend to everything alike, and then every choice is a near tie
        layer.self_attn.q_proj.weight.data *= 7
        layer.self_attn.k_proj.weight.data *= 7
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    words = random.Random(0).sample(range(1, WORDS), TOKENS)  # all different: the same word twice has the same key norm
    with open(f"{folder}/prompt.txt", "w", encoding="utf-8") as f:
        f.write(" ".join(f"w{i}" for i in words))


if __name__ == "__main__":
    make(sys.argv[1])
