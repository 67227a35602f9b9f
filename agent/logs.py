"""What the agent and its helpers say, on standard error: as text, or as one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
import time

from beemesh.settings.model import Log


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def set_up_logging(settings: Log) -> None:
    """Log to standard error, which systemd or the supervisor keeps."""
    handler = logging.StreamHandler(sys.stderr)
    text = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter() if settings.format == "json" else logging.Formatter(text))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
