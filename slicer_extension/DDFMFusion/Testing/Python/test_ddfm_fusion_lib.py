"""The library's plain parts. Runs in Slicer (slicer_add_python_unittest) and under pytest alike."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

if str(Path(__file__).parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[2]))

from DDFMFusionLib import geometry, process
from DDFMFusionLib.choices import Device, Modality
from DDFMFusionLib.command import FusionSettings, fuse_arguments
from DDFMFusionLib.display import duration_text, progress_text
from DDFMFusionLib.guess import guess_modality
from DDFMFusionLib.job import Job, State
from DDFMFusionLib.nrrd import write_nrrd
from DDFMFusionLib.process import Worker


class GuessTest(unittest.TestCase):
    def test_dicom_decides(self) -> None:
        for code, expected in (("MR", Modality.MR), ("PT", Modality.PET), ("NM", Modality.SPECT), ("ct", Modality.CT)):
            self.assertIs(guess_modality(code, "anything PET"), expected)
        self.assertIs(guess_modality("US", "CT head"), Modality.AUTOMATIC)

    def test_names(self) -> None:
        for name, expected in {
            "MRHead": Modality.MR,
            "sub-01_T1w": Modality.MR,
            "3: FLAIR axial": Modality.MR,
            "CTChest": Modality.CT,
            "2 ct_brain": Modality.CT,
            "FDG uptake": Modality.PET,
            "HMPAO SPECT": Modality.SPECT,
            "PET-CT": Modality.AUTOMATIC,
            "Activity": Modality.AUTOMATIC,
            "petrous bone": Modality.AUTOMATIC,
            "": Modality.AUTOMATIC,
        }.items():
            with self.subTest(name=name):
                self.assertIs(guess_modality(None, name), expected)


class GeometryTest(unittest.TestCase):
    def test_tolerance_is_in_voxels(self) -> None:
        coarse, fine = np.diag([5.0, 5.0, 5.0, 1.0]), np.diag([0.1, 0.1, 0.1, 1.0])
        moved = [affine.copy() for affine in (coarse, fine)]
        for affine in moved:
            affine[0, 3] = 0.02  # mm
        shape = (10, 10, 10)
        self.assertTrue(geometry.same_grid(shape, coarse, shape, moved[0]))
        self.assertFalse(geometry.same_grid(shape, fine, shape, moved[1]))

    def test_a_tilt_is_found_at_the_far_corner(self) -> None:
        tilted = np.eye(4)
        tilted[0, 1] = 0.001
        self.assertTrue(geometry.same_grid((10, 10, 10), np.eye(4), (10, 10, 10), tilted))
        self.assertFalse(geometry.same_grid((10, 500, 10), np.eye(4), (10, 500, 10), tilted))

    def test_neighbours_that_touch_do_not_overlap(self) -> None:
        beside = np.eye(4)
        beside[0, 3] = 10
        self.assertFalse(geometry.boxes_overlap((10, 10, 10), np.eye(4), (10, 10, 10), beside))
        beside[0, 3] = 9.5
        self.assertTrue(geometry.boxes_overlap((10, 10, 10), np.eye(4), (10, 10, 10), beside))


class CommandTest(unittest.TestCase):
    def test_defaults_leave_the_choice_to_the_command(self) -> None:
        arguments = fuse_arguments(FusionSettings(), Path("a.nrrd"), Path("b.nrrd"), Path("c.nrrd"))
        self.assertEqual(arguments, ["fuse", "a.nrrd", "b.nrrd", "-o", "c.nrrd", "--json", "--seed", "3407"])

    def test_everything(self) -> None:
        settings = FusionSettings(
            Modality.MR, Modality.CT, (40.0, 80.5), True, True, True, 10, 1, Device.GPU, Path("my prior.safetensors")
        )
        arguments = fuse_arguments(settings, Path("a"), Path("b"), Path("c"))
        pairs = set(itertools.pairwise(arguments))
        self.assertLessEqual(
            {
                ("--reference-kind", "mr"),
                ("--second-kind", "ct"),
                ("--window", "40,80.5"),
                ("--register", "rigid"),
                ("--samples", "4"),
                ("--steps", "10"),
                ("--device", "cuda"),
                ("--prior", "my prior.safetensors"),
                ("--seed", "1"),
            },
            pairs,
        )
        self.assertEqual(arguments[-1], "--colour")

    def test_what_the_user_vouches_for(self) -> None:
        for align, trust, same_patient, expected in (
            (True, False, False, "rigid"),
            (True, True, True, "same-patient"),
            (False, True, True, "trust"),
            (False, False, True, None),
        ):
            settings = FusionSettings(align=align, trust=trust, same_patient=same_patient)
            arguments = fuse_arguments(settings, Path("a"), Path("b"), Path("c"))
            said = arguments[arguments.index("--register") + 1] if "--register" in arguments else None
            self.assertEqual(said, expected)


class DisplayTest(unittest.TestCase):
    def test_durations(self) -> None:
        for seconds, text in ((0.2, "1 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")):
            self.assertEqual(duration_text(seconds), text)

    def test_progress(self) -> None:
        event = {"stage": "fuse", "done": 23, "total": 180, "detail": "slice 2 of 9", "seconds_left": 65.0}
        self.assertEqual(progress_text(event), "Fusing: slice 2 of 9, step 23 of 180, 1 min 5 s left")
        self.assertEqual(progress_text({"stage": "polish", "seconds_left": None}), "polish")
        self.assertEqual(progress_text({}), "")


class NrrdTest(unittest.TestCase):
    def test_header_is_lps_and_data_are_little_endian(self) -> None:
        affine = np.array([[0, 2.0, 0, 5], [-3.0, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.nrrd"
            write_nrrd(path, np.arange(24, dtype=">i2").reshape(2, 3, 4), affine)
            header, data = path.read_bytes().split(b"\n\n", 1)
        lines = header.decode().splitlines()
        self.assertIn("type: int16", lines)
        self.assertIn("sizes: 4 3 2", lines)
        self.assertIn("space directions: (0.0,3.0,0.0) (-2.0,0.0,0.0) (0.0,0.0,4.0)", lines)
        self.assertIn("space origin: (-5.0,-6.0,7.0)", lines)
        self.assertEqual(data, np.arange(24, dtype="<i2").tobytes())

    def test_colour_has_its_axis_first(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.nrrd"
            write_nrrd(path, np.zeros((2, 3, 4, 3), np.uint8), np.eye(4))
            lines = path.read_bytes().split(b"\n\n", 1)[0].decode().splitlines()
        self.assertIn("sizes: 3 4 3 2", lines)
        self.assertIn("space directions: none (-1.0,0.0,0.0) (0.0,-1.0,0.0) (0.0,0.0,1.0)", lines)
        self.assertIn("kinds: RGB-color domain domain domain", lines)


def start(script: str) -> Worker:
    return Worker([sys.executable, "-c", script])


class WorkerTest(unittest.TestCase):
    def read_all(self, worker: Worker) -> list[tuple[str, bytes]]:
        lines = []
        while worker.exit_code() is None:
            lines += worker.read(wait=0.05)
        return lines

    def test_lines_and_exit_code(self) -> None:
        worker = start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
        self.assertEqual(sorted(self.read_all(worker)), [("stderr", b"err\n"), ("stdout", b"out\n")])
        self.assertEqual(worker.exit_code(), 3)
        self.assertEqual(list(worker.error_tail), ["err"])

    def test_a_flood_is_held_up_and_read_in_portions(self) -> None:
        worker = start("for i in range(30000): print(i)")
        first = worker.read(wait=60.0, most=10)
        self.assertTrue(0 < len(first) <= 10)
        self.assertEqual(len(first + self.read_all(worker)), 30000)

    @unittest.skipIf(os.name == "nt", "POSIX signals")
    def test_a_child_that_keeps_the_pipe_open_does_not_hold_up_the_end(self) -> None:
        worker = start(
            "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])"
        )
        self.read_all(worker)
        self.assertEqual(worker.exit_code(), 0)

    @unittest.skipIf(os.name == "nt", "POSIX signals")
    def test_kill_does_not_wait_for_a_reader(self) -> None:
        worker = start("import os\nwhile True: os.write(1, b'x' * 1000 + b'\\n')")
        worker.read(wait=60.0)
        worker.kill()
        self.assertEqual(worker.exit_code(), -signal.SIGKILL)

    def test_after_kill_nothing_is_left_to_read(self) -> None:
        worker = start("print('forgotten')")
        worker._process.wait()
        for reader in worker._readers:
            reader.join()
        worker.kill()
        self.assertEqual(worker.exit_code(), 0)


class WindowsTest(unittest.TestCase):
    def test_every_child_is_told_to_open_no_console(self) -> None:
        """On other systems the calls are only looked at."""
        seen: list[dict] = []
        done = types.SimpleNamespace(pid=7, stdout=io.BytesIO(), stderr=io.BytesIO(), poll=lambda: 0, wait=lambda: 0)
        with mock.patch.object(process, "WINDOWS", True), mock.patch.object(process, "subprocess") as subprocess:
            subprocess.Popen.side_effect = lambda *_, **options: seen.append(options) or done
            subprocess.run.side_effect = lambda *_, **options: seen.append(options)
            worker = Worker(["program"])
            worker.terminate()
            worker.kill()
        self.assertEqual(len(seen), 3)
        for options in seen:
            self.assertTrue(options["creationflags"] & 0x08000000)


class PatientTest(unittest.TestCase):
    """A worker that does not want to end."""

    @unittest.skipIf(os.name == "nt", "POSIX signals")
    def test_is_killed_when_patience_ends(self) -> None:
        now = [100.0]
        folder = Path(tempfile.mkdtemp())
        worker = start(
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('up', flush=True)\nwhile True: signal.pause()"
        )
        job = Job(worker, folder, lambda line: None, clock=lambda: now[0])
        self.assertEqual(worker.read(wait=60.0), [("stdout", b"up\n")])
        job.cancel()
        job.poll(wait=0.05)
        self.assertIs(job.state, State.CANCELLING)
        now[0] += 6.0
        job.poll()
        self.assertIs(job.state, State.CANCELLED)
        job.close()
        self.assertFalse(folder.exists())

    def test_silence_is_reported_only_while_it_runs(self) -> None:
        now = [0.0]
        job = Job(
            start("import threading; threading.Event().wait()"),
            Path(tempfile.mkdtemp()),
            lambda line: None,
            clock=lambda: now[0],
        )
        now[0] = 119.0
        self.assertEqual(job.silent_seconds, 0.0)
        now[0] = 130.0
        self.assertEqual(job.silent_seconds, 130.0)
        job.close()
        self.assertEqual(job.silent_seconds, 0.0)
        self.assertEqual(job.poll(), [])


if __name__ == "__main__":
    unittest.main()
