"""Makes a tiny language model that knows the answers to the questions it was given.

Run by `openai_endpoint.ipynb` as a task, with an interpreter that has torch and transformers:
`python tiny_model.py FACTS FOLDER`. FACTS is a JSON file, {question: answer}. FOLDER is a model like
any other afterwards (weights, tokenizer, chat template), for every program that serves such models.

It learns by heart and knows nothing else; but all of it is real, and takes seconds on any computer.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

USER, ASSISTANT, SYSTEM, END, PAD = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|pad|>"

#: Turns messages into the text that the model was trained with.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

STEPS = 100
DIALOGUES_A_STEP = 16


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the words of *texts*; any other text goes byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a small model with random weights, the same ones each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make_dialogue(facts: dict[str, str], chance: random.Random) -> str:
    """Return one to three questions with their answers, not always asked in the same words."""
    asked = chance.sample(sorted(facts), min(len(facts), chance.choice([1, 1, 2, 3])))
    text = chance.choice(["", "", f"{SYSTEM}You are a helpful assistant."])
    for question in asked:
        words = chance.choice([question, question, question.lower(), question.rstrip("?")])
        text += f"{USER}{words}{ASSISTANT}{facts[question]}{END}"
    return text


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: dict[str, str]) -> None:
    """Teach *model* the facts, printing how far it is."""
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    for step in range(1, STEPS + 1):
        dialogues = [make_dialogue(facts, chance) for _ in range(DIALOGUES_A_STEP)]
        batch = tokenizer(dialogues, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step:3} of {STEPS}  loss {loss.item():.3f}", flush=True)


def main(facts_file: str, folder: str) -> None:
    """Write the model that knows the facts of *facts_file* to *folder*."""
    started = time.monotonic()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # several only wait for each other on a model this small
    facts = json.loads(Path(facts_file).read_text())
    tokenizer = make_tokenizer([*facts, *facts.values()])
    model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer, facts)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"written to {folder} after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
