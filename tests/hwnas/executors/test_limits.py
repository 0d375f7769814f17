import os

from hwnas.executors import limits
from hwnas.executors.limits import TimeLimit, default_memory_bytes, resident_bytes


def test_three_trainings_tell_what_is_usual():
    limit = TimeLimit()
    for seconds, share in ((50.0, 1.0), (10.0, 0.1)):  # 50 and 100 s for a whole training
        limit.note(seconds, share)
        assert limit.seconds(1.0) is None
    limit.note(60.0, 1.0)
    assert limit.seconds(1.0) == 20 * 60.0
    assert limit.seconds(0.5) == 10 * 60.0
    assert limit.seconds(0.01) == 300.0


def test_what_was_asked_for_is_the_limit_whatever_was_usual():
    assert TimeLimit(2.0, past_s=[100.0] * 5).seconds(0.1) == 2.0


def test_workers_share_what_the_container_gives_the_machine(tmp_path, monkeypatch):
    whole = limits.machine_memory_bytes()
    (tmp_path / "memory.max").write_text("1000000000\n")
    monkeypatch.setattr(limits, "_CGROUPS", (tmp_path / "missing", tmp_path / "memory.max"))
    assert [default_memory_bytes(n) for n in (1, 4)] == [800_000_000, 200_000_000]
    (tmp_path / "memory.max").write_text("max\n")
    assert limits.machine_memory_bytes() >= whole


def test_memory_that_a_process_holds_is_seen():
    before = resident_bytes(os.getpid())
    held = bytearray(os.urandom(1_000_000)) * 50
    assert 45e6 < resident_bytes(os.getpid()) - before < 150e6
    assert len(held) == 50_000_000
    assert resident_bytes(2**22 + 5) is None
