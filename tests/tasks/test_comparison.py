"""The command of a task, end to end: records, figures, going on, errors."""

import json
import signal

import pytest

from sb3_relax.tasks import comparison
from sb3_relax.tasks.attention.__main__ import main as attention
from sb3_relax.tasks.comparison import area, grouped, ratio, summarise
from sb3_relax.tasks.memory.__main__ import main as memory
from sb3_relax.tasks.memory.problem import Memory, MemoryConfig
from sb3_relax.tasks.records import write_record
from sb3_relax.tasks.renderer.__main__ import main as renderer
from sb3_relax.tasks.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick")
TINY = ["--calls", "200", "--batch-size", "10"]


def records(folder):
    return json.loads((folder / "record.json").read_text())["runs"]


def test_runs_records_figures_and_a_table(tmp_path, capsys):
    attention([*TINY, "--estimator", "relax", "rloo", "--seeds", "1", "--output", str(tmp_path)])
    assert [(run["estimator"], run["seed"]) for run in records(tmp_path)] == [("relax", 0), ("rloo", 0)]
    assert {"commit", "argv", "versions"} <= records(tmp_path)[0].keys()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert not list((tmp_path / "checkpoints").iterdir())
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.split() == [
        *("accuracy,", "area", "accuracy", "hit_rate"),
        *("variance,", "early", "variance,", "late"),
    ]
    assert [row.split()[0] for row in rows[:2]] == ["relax", "rloo"]


def test_tensorboard_has_the_curve(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    memory([*TINY, "--estimator", "nvil", "--seeds", "1", "--output", str(tmp_path), "--tensorboard"])
    (run,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    (record,) = records(tmp_path)
    written = events.Scalars("memory/recall")
    assert [event.step for event in written] == record["curve"]["calls"] == [0, 50, 100, 150, 200]
    assert [event.value for event in written] == pytest.approx(record["curve"]["recall"])


def test_finished_runs_are_skipped_and_others_join_them(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--seeds", "1", "--output", str(tmp_path)]
    memory([*arguments, "--estimator", "nvil"])
    memory([*arguments, "--estimator", "nvil", "reinforce", "--costs", "joint"])
    before = records(tmp_path)
    monkeypatch.setattr(comparison, "trained", lambda *_: pytest.fail("computed"))
    capsys.readouterr()
    memory([*arguments, "--estimator", "nvil"])
    assert records(tmp_path) == before
    names = [line[:17].strip() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert names == ["nvil, costs each", "nvil, costs joint", "reinforce"]


def test_a_stopped_run_goes_on(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--seeds", "1", "--estimator", "relax", "--output", str(tmp_path)]
    step = Trainer._step

    def interrupted(trainer):
        step(trainer)
        if trainer.step == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(SystemExit) as raised:
        memory(arguments)
    assert raised.value.code == 130
    assert "stopped at step 7; the same command goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "_step", step)
    memory(arguments)
    whole = Trainer(MemoryConfig(calls=200, batch_size=10), Memory)
    whole.train()
    result = whole.result()
    assert {key: records(tmp_path)[0][key] for key in result} == result


def test_a_signal_at_the_last_step_loses_nothing_and_stops_there(tmp_path, monkeypatch):
    step = Trainer._step

    def interrupted(trainer):
        step(trainer)
        if trainer.step == trainer.steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(SystemExit) as raised:
        memory([*TINY, "--seeds", "2", "--estimator", "reinforce", "--output", str(tmp_path)])
    assert raised.value.code == 143
    (run,) = records(tmp_path)
    assert len(run["curve"]["recall"]) == 5


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    arguments = [*TINY, "--seeds", "1", "--estimator", "nvil", "--output", str(tmp_path)]
    step, steps = Trainer._step, []

    def killed(trainer):
        if trainer.step == 8:
            raise RuntimeError("killed")
        step(trainer)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        memory(arguments)
    monkeypatch.setattr(Trainer, "_step", lambda trainer: (steps.append(trainer.step), step(trainer)))
    memory(arguments)
    assert steps == list(range(5, 20))


def fake(estimator="relax", seed=0, values=(0.0, 1.0, 1.0), **settings):
    curve = {"calls": [0, 100, 300], "recall": list(values)}
    config = {"calls": 300, "batch_size": 128, "learning_rate": 0.01, "costs": "each", **settings}
    variance = {"early": {"own": 1.0, "nvil": 2.0}, "late": {"own": 3.0, "nvil": 4.0}}
    return {
        "estimator": estimator,
        "seed": seed,
        **config,
        "curve": curve,
        "test": {"recall": 0.5},
        "variance": variance,
    }


def test_area_is_the_mean_over_calls():
    assert area(fake(), "recall") == pytest.approx((100 * 0.5 + 200 * 1) / 300)
    assert (ratio(fake(), "early"), ratio(fake(), "late")) == (0.5, 0.75)


def test_a_summary_is_over_seeds():
    summary = summarise([fake(values=(0, 0, 0)), fake(seed=1, values=(1, 1, 1)), fake("nvil")], Memory)
    assert summary["relax"]["recall, area"][0] == 0.5
    assert summary["relax"]["recall, area"][1] == pytest.approx(12.706 * 0.5, rel=1e-3)
    assert summary["nvil"]["recall"] == (0.5, None)


def test_groups_say_what_tells_them_apart():
    runs = [fake(learning_rate=0.1), fake(), fake("nvil"), fake(costs="joint", learning_rate=0.1)]
    assert set(grouped(runs, Memory)) == {
        "nvil",
        "relax, learning_rate 0.01, costs each",
        "relax, learning_rate 0.1, costs each",
        "relax, learning_rate 0.1, costs joint",
    }


@pytest.mark.parametrize(
    ("main", "bad", "message"),
    [
        (attention, "--seeds 0", "--seeds must be at least 1; got 0"),
        (attention, "--calls 0", "--calls must be at least 1; got 0"),
        (attention, "--calls 100", "--calls must be at least --batch-size, 128, for one step; got 100"),
        (attention, "--phi-learning-rate 0", "--phi-learning-rate must be positive; got 0.0"),
        (attention, "--batch-size 0", "--batch-size must be at least 1; got 0"),
        (attention, "--first-seed -1", "--first-seed must not be negative; got -1"),
        (memory, "--learning-rate 0", "--learning-rate must be positive; got 0.0"),
        (memory, "--learning-rate nan", "--learning-rate must be positive; got nan"),
        (memory, "--estimator relaxx", "invalid choice: 'relaxx' (choose from"),
        (memory, "--costs all", "invalid choice: 'all' (choose from"),
        (memory, "--costs joint --estimator exact", "memory: exact would visit 16,777,216 samples"),
        (attention, "--glimpses 2 --estimator exact", "attention: exact would visit 256 samples"),
        (renderer, "--estimator exact", "invalid choice: 'exact' (choose from"),
        (renderer, "--entropy -1", "renderer: entropy must not be negative; got -1.0"),
        (attention, "--dataset mnist --data-dir nowhere", "name its folder with data_dir (--data-dir) or"),
        (attention, "--output {file}", "argument --output: {file} is a file, not a folder"),
    ],
)
def test_errors(main, bad, message, tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(SystemExit) as raised:
        main(["--output", str(tmp_path / "run"), *bad.format(file=file).split()])
    assert raised.value.code == 2
    assert message.format(file=file) in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path, capsys):
    (tmp_path / "record.json").write_text('{"runs": [')
    with pytest.raises(SystemExit):
        memory(["--output", str(tmp_path)])
    assert f"{tmp_path / 'record.json'} is damaged, or holds no record" in capsys.readouterr().err


def test_a_record_of_another_task_is_left_alone(tmp_path, capsys):
    write_record(tmp_path / "record.json", {"task": "attention", "runs": []})
    with pytest.raises(SystemExit):
        memory(["--output", str(tmp_path)])
    assert "record.json is of another task than memory: name another folder by --output" in capsys.readouterr().err


@pytest.mark.parametrize("main", [attention, memory, renderer])
def test_help_lists_estimators_and_defaults(main, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "runs of every estimator (default: 3)" in out
    assert "rloo two samples, each the other's baseline" in out
