"""Libraries that report home are set not to, before our commands import them."""

from __future__ import annotations

import os

NO_TELEMETRY = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}


def disable_telemetry() -> None:
    """Set the variables of this process's environment that gradio, huggingface_hub, diffusers and Ray read for that.

    >>> from ditifeat.app.telemetry import disable_telemetry
    >>> disable_telemetry()
    """
    os.environ.update(NO_TELEMETRY)
