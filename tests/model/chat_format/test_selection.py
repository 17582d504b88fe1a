"""Which format a folder gets, and the reason that is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from chat_samples import CHATML_MARKERS, DEEPSEEK_MARKERS, GLM_MARKERS, KIMI_MARKERS, LLAMA_MARKERS
from deepground.errors import ChatFormatError, TokenizerError
from deepground.model.chat_format import chat_format_for, choose_chat_format
from deepground.model.config import GqaConfig, ModelConfig, RopeConfig


def config_of(family: str) -> ModelConfig:
    """Only the family matters here."""
    return ModelConfig(
        family=family,
        vocab_size=8,
        hidden_size=8,
        num_layers=1,
        intermediate_size=8,
        max_positions=8,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention=GqaConfig(num_heads=1, num_kv_heads=1, head_dim=8),
        rope=RopeConfig(theta=1e4, rotary_dim=8, interleaved=False),
    )


def write(folder: Path, markers: tuple[str, ...] = (), **settings: Any) -> Path:
    added = [{"id": number, "content": marker} for number, marker in enumerate(markers)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


WITHOUT_THINK = tuple(marker for marker in DEEPSEEK_MARKERS if "think" not in marker)
QWEN3_MARKERS = (*CHATML_MARKERS, "<think>", "</think>")
OPENS_THINKING = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"


@pytest.mark.parametrize(
    ("family", "markers", "template", "name"),
    [
        ("deepseek_v3", DEEPSEEK_MARKERS, None, "deepseek-v3.1"),
        ("deepseek_v3", WITHOUT_THINK, None, "deepseek-v3"),
        ("deepseek_v3", DEEPSEEK_MARKERS, "{% if not thinking is defined %}...</think>", "deepseek-v3.1"),
        ("deepseek_v3", DEEPSEEK_MARKERS, "{% set content = content.split('</think>')[-1] %}", "deepseek-r1"),
        ("deepseek_v3", DEEPSEEK_MARKERS, "{{ bos_token }}", "deepseek-v3"),
        ("deepseek_v32", DEEPSEEK_MARKERS, None, "deepseek-v3.2"),
        ("qwen2", DEEPSEEK_MARKERS, None, "deepseek-r1"),
        ("llama", (*LLAMA_MARKERS, *DEEPSEEK_MARKERS), None, "deepseek-r1"),
        ("kimi_k2", KIMI_MARKERS, None, "kimi-k2"),
        ("deepseek_v3", KIMI_MARKERS, None, "kimi-k2"),
        ("llama", LLAMA_MARKERS, None, "llama3"),
        ("glm4_moe", GLM_MARKERS, None, "glm-4.5"),
        ("qwen2", CHATML_MARKERS, None, "qwen2"),
        ("llama", CHATML_MARKERS, None, "qwen2"),
        ("qwen3", QWEN3_MARKERS, None, "qwen3"),
        ("qwen3_moe", QWEN3_MARKERS, "{% if enable_thinking %}" + OPENS_THINKING, "qwen3"),
        ("qwen3_moe", QWEN3_MARKERS, OPENS_THINKING, "qwen3-thinking"),
        ("deepseek_v2", (), None, "deepseek-v2"),
        ("qwen3", (), None, "qwen3"),
    ],
)
def test_by_tokens_template_and_family(
    tmp_path: Path, family: str, markers: tuple[str, ...], template: str | None, name: str
) -> None:
    write(tmp_path, markers, **({"chat_template": template} if template else {}))
    choice = choose_chat_format(tmp_path, config_of(family))
    assert choice.chat_format.name == name
    assert choice.reason


def test_template_may_be_a_file_or_a_list(tmp_path: Path) -> None:
    write(tmp_path, DEEPSEEK_MARKERS, chat_template=[{"name": "default", "template": "no thoughts"}])
    assert chat_format_for(tmp_path, config_of("deepseek_v3")).name == "deepseek-v3"
    (tmp_path / "chat_template.jinja").write_text("{{ thinking }}", encoding="utf-8")
    assert chat_format_for(tmp_path, config_of("deepseek_v3")).name == "deepseek-v3.1"


def test_tokens_may_stand_in_the_settings(tmp_path: Path) -> None:
    write(tmp_path, (), added_tokens_decoder={"5": {"content": "<|im_middle|>"}})
    assert chat_format_for(tmp_path, config_of("deepseek_v3")).name == "kimi-k2"


def test_the_name_in_the_settings_and_the_override_win(tmp_path: Path) -> None:
    write(tmp_path, LLAMA_MARKERS, chat_format="deepseek-v3.1")
    assert chat_format_for(tmp_path, config_of("llama")).name == "deepseek-v3.1"
    choice = choose_chat_format(tmp_path, config_of("llama"), "qwen2")
    assert (choice.chat_format.name, choice.reason) == ("qwen2", "chosen by the user")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match="'alpaca'.*deepseek-v3.1"):
        chat_format_for(tmp_path, config_of("llama"), "alpaca")
    with pytest.raises(ChatFormatError, match=r"chat_format in .*tokenizer_config.json is 'alpaca'"):
        chat_format_for(write(tmp_path, chat_format="alpaca"), config_of("llama"))
    with pytest.raises(ChatFormatError, match="is 7"):
        chat_format_for(write(tmp_path, chat_format=7), config_of("llama"))


def test_nothing_to_go_by(tmp_path: Path) -> None:
    with pytest.raises(ChatFormatError, match="name one of"):
        chat_format_for(tmp_path, config_of("new_family"))


def test_unreadable_settings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match="cannot be read as JSON"):
        chat_format_for(tmp_path, config_of("llama"))
