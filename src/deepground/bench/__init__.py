"""The bench room: how fast a model runs here, what bounds it, and what a token costs."""

from deepground.bench.cost import PRICES_FILE, ApiPrice, Expenses, read_prices
from deepground.bench.disturbance import Watch
from deepground.bench.first_token import FirstToken, measure_first_tokens
from deepground.bench.report import BenchReport, MemoryUse, run_bench
from deepground.bench.speed import BenchConfig, Rate, SpeedMeter
from deepground.bench.traffic import Step, Traffic, WeightBytes, parameter_counts, weight_bytes

__all__ = [
    "PRICES_FILE",
    "ApiPrice",
    "BenchConfig",
    "BenchReport",
    "Expenses",
    "FirstToken",
    "MemoryUse",
    "Rate",
    "SpeedMeter",
    "Step",
    "Traffic",
    "Watch",
    "WeightBytes",
    "measure_first_tokens",
    "parameter_counts",
    "read_prices",
    "run_bench",
    "weight_bytes",
]
