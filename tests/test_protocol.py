"""The JSON-lines protocol: what a host reads is what the command said, whatever else happens on the channel."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddfm_monai import protocol
from ddfm_monai.errors import Cancelled, InputError, UsageError
from ddfm_monai.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def events_of(text: str) -> list[protocol.Event]:
    return [event for line in text.splitlines() if (event := protocol.parse_line(line))]


def run_worker(body: str, send: Callable[[subprocess.Popen[bytes]], None] | None = None) -> tuple[int, str, str]:
    """Run a small command that speaks the protocol; ``send`` acts on it after its first progress line."""
    script = textwrap.dedent(
        """
        import os, sys
        from ddfm_monai import protocol
        from ddfm_monai.progress import Progress
        from ddfm_monai.errors import InputError
        with protocol.events_on_stdout("1.2.3") as events:
        """
    ) + textwrap.indent(textwrap.dedent(body), "    ")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    seen = b""
    if send is not None:
        while b'"progress"' not in seen:
            seen += process.stdout.readline()
        send(process)
    out, err = process.communicate(timeout=60)
    return process.returncode, (seen + (out or b"")).decode(), err.decode()


def test_what_is_written_is_what_is_read() -> None:
    stream = io.StringIO()
    writer = protocol.EventWriter(stream)
    writer.hello("1.2.3")
    writer.log("Ränder\nund mehr", level="warning")
    writer(Progress("fuse", 1, 4, "slice 1 of 2, step 1 of 2"))
    writer.result({"fused": Path("out.nrrd")}, {"psnr": np.float32(1.5), "bad": float("nan"), "shape": np.arange(3)})
    writer.error("E_INPUT", "half a file", 5)

    hello, log, progress, result, error = events_of(stream.getvalue())
    assert (hello.name, hello.fields["version"], hello.fields["pid"]) == ("hello", "1.2.3", os.getpid())
    assert log.fields == {"level": "warning", "message": "Ränder\nund mehr"}
    assert progress.fields["detail"] == "slice 1 of 2, step 1 of 2"
    assert progress.fields["seconds_left"] is None  # one point says nothing about speed
    assert result.fields["outputs"] == {"fused": "out.nrrd"}
    assert result.fields["provenance"] == {"psnr": 1.5, "bad": None, "shape": [0, 1, 2]}
    assert error.fields == {"code": "E_INPUT", "message": "half a file", "exit_code": 5}


def test_every_line_is_ascii_json_with_the_version() -> None:
    stream = io.StringIO()
    protocol.EventWriter(stream).log("größer ✓")
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue())["protocol"] == protocol.PROTOCOL


def test_time_left_follows_the_stage_speed() -> None:
    stream, clock = io.StringIO(), Clock()
    writer = protocol.EventWriter(stream, clock)
    writer(Progress("read", 0, 1))
    clock.now = 50.0  # a slow start must not count for the next stage
    for done in range(5):
        writer(Progress("fuse", done, 10))
        clock.now += 2.0
    assert [event.fields["seconds_left"] for event in events_of(stream.getvalue())[1:]] == [None, 18, 16, 14, 12]


def test_a_long_run_is_a_short_log_with_first_and_last_line() -> None:
    stream = io.StringIO()
    writer = protocol.EventWriter(stream)
    for done in range(100_001):
        writer(Progress("fuse", done, 100_000))
    done_values = [event.fields["done"] for event in events_of(stream.getvalue())]
    assert len(done_values) == 201
    assert done_values[0] == 0
    assert done_values[-1] == 100_000


def test_a_second_run_of_the_same_stage_after_another_is_reported_again() -> None:
    stream = io.StringIO()
    writer = protocol.EventWriter(stream)
    for stage in ("read", "fuse", "read"):
        writer(Progress(stage, 1, 1))
    assert [event.fields["stage"] for event in events_of(stream.getvalue())] == ["read", "fuse", "read"]


@pytest.mark.parametrize(
    "line",
    [
        "Downloading weights 42%",
        '{"protocol": 1, "event": "progress", "stage": "fu',
        '{"protocol": 1, "event": "progress", "stage": "fuse", "done": "three", "total": 4}',
        '{"protocol": 1, "event": "result", "outputs": "fused.nrrd"}',
        '{"protocol": 1, "event": 7}',
        '{"event": "hello"}',
        "[1, 2]",
        "null",
        "[" * 100_000,
        b"\xff\xfe\x00broken",
    ],
)
def test_anything_else_on_the_channel_is_a_log_line(line: str | bytes) -> None:
    event = protocol.parse_line(line)
    assert event is not None
    assert (event.name, event.fields["level"]) == ("log", "output")
    assert 0 < len(event.fields["message"]) <= 2000


@pytest.mark.parametrize("line", ["", "\n", "  \r\n", b"\n"])
def test_blank_lines_are_nothing(line: str | bytes) -> None:
    assert protocol.parse_line(line) is None


def test_unknown_events_and_fields_are_kept() -> None:
    event = protocol.parse_line('{"protocol": 1, "event": "preview", "png": "x.png"}')
    assert event == protocol.Event("preview", {"png": "x.png"})
    event = protocol.parse_line('{"protocol": 1, "event": "log", "message": "m", "when": 3}')
    assert event is not None
    assert event.fields["when"] == 3


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_version_is_an_error_that_says_what_to_do(version: object) -> None:
    event = protocol.parse_line(json.dumps({"protocol": version, "event": "hello"}))
    assert event is not None
    assert (event.name, event.fields["code"]) == ("error", "E_PROTOCOL")
    assert str(version) in event.fields["message"]
    assert "Update" in event.fields["message"]


def test_prints_of_libraries_do_not_disturb_the_channel() -> None:
    code, out, err = run_worker(
        """
        print("from python")
        os.system("echo from native")
        events.result({"fused": "a.nrrd"})
        """
    )
    assert code == 0
    assert [event.name for event in events_of(out)] == ["hello", "result"]
    assert "from python" in err
    assert "from native" in err


def test_an_error_is_told_and_raised() -> None:
    code, out, err = run_worker('raise InputError("b.nrrd: 4-D, expected 3-D.", "E_DIMENSIONS")')
    assert code == 1  # this little worker lets the traceback out; the command maps it to its exit code
    assert "InputError" in err
    error = events_of(out)[-1]
    assert error.fields == {"code": "E_DIMENSIONS", "message": "b.nrrd: 4-D, expected 3-D.", "exit_code": 5}


@pytest.mark.parametrize(
    ("raised", "code", "exit_code"),
    [
        (UsageError("x"), "E_USAGE", 2),
        (InputError("x"), "E_INPUT", 5),
        (Cancelled("x"), "E_CANCELLED", 130),
        (KeyboardInterrupt(), "E_CANCELLED", 130),
        (OSError(28, "No space left on device"), "E_DISK", 5),
        (KeyError("DOE^JANE"), "E_INTERNAL", 1),
    ],
)
def test_exit_codes_in_error_events(
    raised: BaseException, code: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(type(raised)), protocol.events_on_stdout("1"):
        raise raised
    error = events_of(stream.getvalue())[-1]
    assert (error.fields["code"], error.fields["exit_code"]) == (code, exit_code)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM: a host ends the process tree")
def test_sigterm_is_ctrl_c() -> None:
    code, out, err = run_worker(
        """
        import time
        try:
            events(Progress("fuse", 0, 10))
            time.sleep(60)
        finally:
            print("cleaned up", file=sys.stderr)
        """,
        lambda process: process.send_signal(signal.SIGTERM),
    )
    assert code != 0
    assert "cleaned up" in err
    assert events_of(out)[-1].fields["exit_code"] == 130


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_work_stops_when_the_host_is_gone() -> None:
    def hang_up(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None

    code, _, err = run_worker(
        """
        import itertools
        for done in itertools.count():
            events(Progress("fuse", done, 100))
        """,
        hang_up,
    )
    assert code == 1
    assert "Cancelled: The host program no longer listens" in err


def test_sigterm_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with protocol.sigterm_as_interrupt():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_reading_needs_no_torch() -> None:
    script = "import sys, ddfm_monai.protocol; sys.exit(bool({'torch', 'monai', 'numpy', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
