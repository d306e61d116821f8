#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares engine/tokenizer with Hugging Face's `tokenizers`: ids and decoded text of hard strings, for tokenizers of each
kind that is supported, trained here. Run from the repository's root, in a throw-away environment:
    python3 -m venv /tmp/tok && /tmp/tok/bin/pip install tokenizers && /tmp/tok/bin/python tests/peers/compare_tokenizer.py
Prints a line for each tokenizer and each mismatch; status 1 when there is one. `--all`: every code point
of Unicode 14 instead, for some of them."""

import glob
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
          r"|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BLANK = "\u2581"

WORDS = """Hello world the quick brown fox Привет мир Ελληνικά שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 你好世界 こんにちは 안녕하세요
naïve café résumé Ångström œuvre straße ＦＵＬＬ ｗｉｄｔｈ ﬁne ﬃ ǅ ǆ Việt Nam đã được Tiếng მსოფლიო հայերեն አማርኛ ᏣᎳᎩ ไทย ລາວ ᚠᚢᚦ 𝔘𝔫𝔦 𐍈 ½ ² ٣٤٥ ௧௨ Ⅷ ⓪
don't DON'T Don'T we'll WE'LL They'Ve I'm I'M he'd HE'D it's IT'ſ 're 'RE o'clock rock'n'roll ''s 's' ʼs ’s 123 1234567 3.14159 1e-10 0xFF
int main(void) { return 0; } for (i=0;i<n;++i) a[i]+=b*c->d; #include <stdio.h> // end /* x */ SELECT * FROM t WHERE a!=b; λx.x→y ∀x∈ℝ ≤≥≠
😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ☃ e\u0301 a\u0327\u0301 a\u0301\u0327 \u0301x ｶﾞ 한 \u1112\u1161\u11ab Å \u212b \u0344 \u0958 q\u0323\u0307 q\u0307\u0323""".split()
BLANKS = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", "   \n\n  ", "\u00a0", "\u3000",
          "\u2028", "\u0085", "\u200b", "\u180e", "\ufeff", "\x0b", "\x0c", "\x1c", "", ""]
SPECIALS = ["<|begin_of_text|>", "<|end|>", "<|endoftext|>", "<|im_start|>", "<|end", "<pad>"]


def strings(seed):
    rng = random.Random(seed)
    hard = ["", " ", "  ", "\n", "\0", "a\0b\0\0 c", BLANK, BLANK + BLANK, " " + BLANK, BLANK + " a", "a" + BLANK + "b", "<0x41>", "<0x0A>x",
            "x" * 3000, "ab" * 2000, " " * 500, "\n" * 300 + "x", "é" * 700, "你好" * 400, "\u0301" * 300, "a" + "\u0327\u0301" * 200, "1" * 1001,
            "'" * 50, "<|end|><|end|>", " <|end|> ", "<|endoftext|>x<|end<|end|>", "<|begin_of_text|>hi", "x <|keep|> y", "\t\n<|blank|> \u3000z",
            "a<|blank|>b <|blank|>", "<|blank|>  <|blank|>", "lower Lower  lower", " lower", "lowerlower", "e\u0301t\u00e9", "\u00e9t\u00e9",
            "<|left|> <|left|>x  <|left|>", "\ufffd", "\U0010ffff", "\ud7ff\ue000", "a\u0300" * 50, "\u0f71\u0f72\u0f74", "ſ's'ſ 'ſ", "K'K"]
    for _ in range(500):
        out = []
        for _ in range(rng.randint(1, 25)):
            out.append(rng.choice(WORDS) if rng.random() < 0.93 else rng.choice(SPECIALS + ["<|keep|>", "<|blank|>", "lower", "<|left|>"]))
            out.append(rng.choice(BLANKS))
        hard.append("".join(out))
    for _ in range(150):
        hard.append("".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0, 0x300), rng.randrange(0x300, 0xd800), rng.randrange(0xe000, 0x110000),
                                            0x301, 0x327, 32, 10])) for _ in range(rng.randint(1, 60))))
    return ["".join(c for c in text if is_old(c)) for text in hard]


def is_old(letter):
    """Both sides know it, or neither: not assigned after Unicode 14, which is PCRE2 10.42's, and Python 3.11's."""
    return unicodedata.unidata_version != "14.0.0" or unicodedata.category(letter) not in ("Cn", "Cs")


def every_code_point():
    for first in range(0, 0x110000, 64):
        letters = [chr(c) for c in range(first, first + 64) if is_old(chr(c))]
        if letters:
            yield "".join(f"a{c}1{c} {c}{c}'{c}!{c}\n {c} " for c in letters)


def corpus():
    for name in sorted(glob.glob("**/*.[ch]", recursive=True) + glob.glob("**/*.md", recursive=True))[:60]:
        with open(name, encoding="utf-8", errors="replace") as file:
            yield file.read()
    for seed in range(3):
        yield from strings(1000 + seed)


def byte_level(pattern, prefix=False, regex=False, form=None, vocab=2500):
    t = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (pattern if isinstance(pattern, list) else [pattern] if pattern else [])]
    t.pre_tokenizer = pre_tokenizers.Sequence(splits + [last]) if splits else last
    t.decoder = decoders.ByteLevel()
    if form:
        t.normalizer = form
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens(SPECIALS + [f"<|reserved_{i}|>" for i in range(250)])
    t.add_tokens([AddedToken("<|keep|>", normalized=False), AddedToken("<|blank|>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("<|left|>", lstrip=True, normalized=False), AddedToken("lower", normalized=True), AddedToken("e\u0301t\u00e9", normalized=True)])
    begin = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                            processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)])])
    return t


def sentencepiece(normalizer=None, pre=None, decoder=None, fallback=True, fuse=True, vocab=2000):
    train = Tokenizer(models.BPE())
    train.normalizer = normalizers.Replace(" ", BLANK)
    train.pre_tokenizer = pre_tokenizers.Split(Regex(BLANK + r"+[^\s" + BLANK + r"]*|\n+"), "isolated")
    train.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, limit_alphabet=200, show_progress=False))
    model = json.loads(train.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if fallback else [])
    tokens += [x for x in sorted(model["vocab"], key=model["vocab"].get) if x not in tokens]
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=fuse,
                             byte_fallback=fallback))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.decoder = decoder or decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<unk>", "<s>", "</s>"] + SPECIALS)
    t.add_tokens([AddedToken("<|keep|>", normalized=False), AddedToken("<|blank|>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("<|left|>", lstrip=True, normalized=False), AddedToken("lower", normalized=True)])
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
    return t


def changed(tokenizer, ignore_merges=None, texts=False, **members):
    """The tokenizer.json with ignore_merges set, merges as texts, top-level members replaced."""
    data = json.loads(tokenizer.to_str())
    if ignore_merges is not None:
        data["model"]["ignore_merges"] = ignore_merges
    if ignore_merges:  # whole words that merging would not find
        data["model"]["merges"] = [m for i, m in enumerate(data["model"]["merges"]) if i % 7]
    if texts:
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    data.update(members)
    return json.dumps(data, ensure_ascii=texts)


def kinds():
    llama2 = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    llama3 = byte_level(LLAMA3)
    yield "llama 3, ignore_merges", changed(llama3, True)
    yield "llama 3", changed(llama3, False)
    yield "llama 3, merges as texts", changed(llama3, texts=True)
    yield "llama 3, prefix", changed(byte_level(LLAMA3, prefix=True))
    yield "gpt-2", changed(byte_level(None, regex=True))
    yield "gpt-2, prefix", changed(byte_level(None, prefix=True, regex=True))
    yield "no split", changed(byte_level(None))
    yield "qwen (NFC)", changed(byte_level(QWEN, form=normalizers.NFC()))
    yield "o200k", changed(byte_level(O200K))
    yield "two splits, one by [\\s\\S]", changed(byte_level([r"\p{N}{1,2}", r" ?[A-Z][a-z]*| ?[a-z]+|\n+| +|[\s\S]"]))
    yield "gaps, empty matches", changed(byte_level([r"\d*|(?<=e)x|\S+(?=\s)", r"[^\sa-f]+"]))
    yield "llama 2", changed(sentencepiece(llama2))
    yield "llama 2, merges as texts", changed(sentencepiece(llama2), texts=True)
    yield "unk, fused", changed(sentencepiece(llama2, fallback=False))
    yield "unk, not fused", changed(sentencepiece(llama2, fallback=False, fuse=False))
    few = json.loads(changed(sentencepiece(llama2)))
    for byte in range(0xC0, 0xE8):
        few["model"]["vocab"][f"<gone {byte}>"] = few["model"]["vocab"].pop(f"<0x{byte:02X}>")
    yield "fallback without some bytes", json.dumps(few)
    for scheme in "first", "always", "never":
        for cut in True, False:
            meta = pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=cut)
            yield f"metaspace {scheme}, split {cut}", changed(sentencepiece(pre=meta))
        yield f"metaspace {scheme}, its decoder", changed(sentencepiece(pre=meta, decoder=decoders.Metaspace(BLANK, prepend_scheme=scheme)))
    yield "NFC and metaspace", changed(sentencepiece(normalizers.NFC(), pre_tokenizers.Metaspace(BLANK, prepend_scheme="first")))


def compile_tool(folder):
    tool = os.path.join(folder, "tokenize")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "jansson", "libpcre2-8", "libutf8proc"], check=True, capture_output=True, text=True)
    subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-I.", "-O2", "-g", "-o", tool, "tests/peers/tokenize.c", "engine/bpe.c",
                    *sorted(glob.glob("engine/tokenizer*.c")), "sim/core/arena.c", "sim/core/error.c", *flags.stdout.split(), "-lm"], check=True)
    return tool


class Ours:
    def __init__(self, tool, path):
        self.process = subprocess.Popen([tool, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def number(self):
        return struct.unpack("I", self.process.stdout.read(4))[0]

    def text(self):
        return self.process.stdout.read(self.number())

    def ask(self, text, special, begin):
        data = text.encode("utf-8")
        self.process.stdin.write(struct.pack("III", special + 2 * begin, len(data), 0) + data)
        self.process.stdin.flush()
        if self.number():
            return self.text().decode("utf-8", "replace"), None
        n = self.number()
        ids = list(struct.unpack(f"{n}I", self.process.stdout.read(4 * n)))
        return ids, (self.text(), self.text(), self.text())

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def compare(tool, folder, text_of_json, texts, modes):
    path = os.path.join(folder, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text_of_json)
    theirs, ours, bad, tokens = Tokenizer.from_file(path), Ours(tool, path), [], 0
    for text in texts:
        for special, begin in modes:
            theirs.encode_special_tokens = not special
            ids = theirs.encode(text, add_special_tokens=begin).ids
            got, shown = ours.ask(text, special, begin)
            tokens += len(ids)
            if ids != got:
                bad.append(("ids", special, text, ids, got))
                continue
            for skip, mine in (True, shown[0]), (False, shown[1]):
                if theirs.decode(ids, skip_special_tokens=skip) != mine.decode("utf-8", "replace"):
                    bad.append(("text", skip, text, theirs.decode(ids, skip_special_tokens=skip), mine))
            if "\0" not in text and shown[0] != shown[2] and not shown[0].startswith(shown[2]):
                bad.append(("pieces", special, text, shown[0], shown[2]))
    if ours.close():
        bad.append(("status", 0, "", 0, 0))
    return bad, tokens


def main():
    total = n = 0
    whole = "--all" in sys.argv
    texts = list(every_code_point()) if whole else strings(1)
    modes = [(True, False)] if whole else [(True, True), (True, False), (False, False)]
    with tempfile.TemporaryDirectory() as folder:
        tool = compile_tool(folder)
        for name, data in kinds():
            if whole and name not in ("llama 3", "gpt-2", "qwen (NFC)", "o200k", "metaspace first, split True"):
                continue
            start = time.time()
            bad, tokens = compare(tool, folder, data, texts, modes)
            n += len(texts) * len(modes)
            total += len(bad)
            print(f"{name}: {len(texts)} texts, {len(modes)} ways, {tokens} tokens, {len(bad)} mismatches ({time.time() - start:.1f} s)", flush=True)
            for what, flag, text, expected, got in bad[:3]:
                print(f"  {what} {flag}: {text[:200]!r}\n    theirs {str(expected)[:300]!r}\n    ours   {str(got)[:300]!r}")
    print(f"{n} comparisons, {total} mismatches")
    return total > 0


if __name__ == "__main__":
    sys.exit(main())
