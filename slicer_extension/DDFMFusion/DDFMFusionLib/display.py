"""Words for the progress line."""

from __future__ import annotations

from .i18n import _

__all__ = ["duration_text", "progress_text"]


def progress_text(progress: dict) -> str:
    """What a ``progress`` event says, for people: stage, slice and step, time left."""
    stages = {
        "read": _("Reading"),
        "register": _("Aligning"),
        "fuse": _("Fusing"),
        "write": _("Writing"),
    }
    stage = progress.get("stage", "")
    text = stages.get(stage, stage)
    if progress.get("detail"):
        text = _("{stage}: {detail}").format(stage=text, detail=progress["detail"])
    if progress.get("total", 0) > 1:
        text = _("{progress}, step {done} of {total}").format(
            progress=text, done=progress["done"], total=progress["total"]
        )
    seconds = progress.get("seconds_left")
    if isinstance(seconds, (int, float)) and seconds > 0:
        text = _("{progress}, {time} left").format(progress=text, time=duration_text(seconds))
    return text


def duration_text(seconds: float) -> str:
    """A rough duration: "12 s", "3 min 20 s", "1 h 5 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    if whole < 3600:
        return _("{minutes} min {seconds} s").format(minutes=whole // 60, seconds=whole % 60)
    return _("{hours} h {minutes} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)
