"""Text completions and fill-in-the-middle, as DeepSeek's beta and OpenAI's older API have them."""
