"""Numbers as reports and the terminal write them."""

from pipeline.metrics.bootstrap import Metric


def number(metric: Metric) -> str:
    """Format a value with its confidence interval, as 0.853 (0.820–0.883); a dash where there is no value."""
    if metric.value is None:
        return "–"
    if metric.low is None or metric.high is None:
        return decimal(metric.value)
    dash = " to " if metric.low < 0 else "–"
    return f"{decimal(metric.value)} ({decimal(metric.low)}{dash}{decimal(metric.high)})"


def decimal(value: float) -> str:
    """Format with three decimals (none from 100 on) and a typographic minus sign."""
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")
