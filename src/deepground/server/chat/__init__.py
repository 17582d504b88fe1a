"""Chat completions, as DeepSeek's and OpenAI's APIs have them."""
