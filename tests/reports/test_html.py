"""The comparison page and table, made from fake run folders."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from speechcl.metrics import continual_summary
from speechcl.reports import render_report, summary_rows, summary_table
from speechcl.reports.plots import axis_ticks, det_plot
from speechcl.results import write_results, write_scores

ATTACKS = ["lpc_noise", "pitch_shift", "griffin_lim"]
FORGETS = [[4.0, 40.0, 45.0], [9.0, 8.0, 42.0], [15.0, 53.0, 1.0]]
KEEPS = [[9.0, 40.0, 45.0], [9.0, 8.0, 42.0], [9.0, 8.0, 1.0]]


def fake_run(folder, matrix=FORGETS, scores=True, **changes):
    """Write a run folder as a finished run leaves it."""
    higher_is_better = changes.get("higher_is_better", False)
    stream = changes.get("stream", ATTACKS)
    results = {
        "schema": 1,
        "recipe": "Embedded/detection",
        "method": "finetune",
        "method_label": "fine-tune",
        "seed": 0,
        "stream": stream,
        "metric": "eer",
        "higher_is_better": higher_is_better,
        "matrix": matrix,
        "summary": continual_summary(matrix, higher_is_better, changes.get("zero_shot")),
        "average_interval": [20.0, 26.0],
        "trainable_parameters": 10176,
        "memory_bytes": 99700,
        "train_seconds": [1.0, 2.0, 3.5],
        "peak_rss_mb": 400.0,
        "versions": {"torch": "2.11.0"},
        "command": "python train.py finetune.yaml",
        "train_sizes": [{"bonafide": 41, "spoof": 1300}] * len(stream),
        **changes,
    }
    write_results(folder / "results.json", results)
    if scores:
        write_scores(folder / "scores" / f"task_{len(stream) - 1:02d}.csv", score_rows(stream))
    return folder


def score_rows(stream):
    rng = np.random.default_rng(0)
    return [
        {
            "test_task": task,
            "ID": f"{task}_{label}_{i}",
            "label": label,
            "attack": task,
            "speaker": f"s{i % 5}",
            "score": rng.normal(2.0 if label == "bonafide" else 0.0),
        }
        for task in stream
        for label in ("bonafide", "spoof")
        for i in range(20)
    ]


@pytest.fixture
def runs(tmp_path):
    return [
        fake_run(tmp_path / "ft0"),
        fake_run(tmp_path / "ft1", matrix=(np.array(FORGETS) + 3.0).tolist(), seed=1),
        fake_run(tmp_path / "er0", KEEPS, method="er", method_label="ER", memory_bytes=216000),
        fake_run(tmp_path / "joint0", KEEPS, method="joint", method_label="joint"),
    ]


class Page(HTMLParser):
    """Collects tags, links and text, and checks that tags are balanced."""

    VOID = frozenset(["meta", "link", "br", "wbr"])

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.links, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += " ".join(data.split()) + " "


def render(folders, tmp_path, **options):
    return Page(render_report(folders, tmp_path / "out" / "report.html", **options).read_text())


def test_seeds_of_a_method_are_averaged(runs):
    finetune, er, joint = summary_rows(runs)
    assert finetune.label == "fine-tune"
    assert len(finetune.runs) == 2
    assert finetune.average == pytest.approx(23.0 + 1.5)
    assert finetune.average_std == pytest.approx(3.0 / 2**0.5)
    (order,) = finetune.orders
    assert order.matrix == pytest.approx(np.array(FORGETS) + 1.5)
    assert finetune.just_learnt == pytest.approx((4 + 8 + 1) / 3 + 1.5)
    assert finetune.forgetting == pytest.approx(((15 - 4) + (53 - 8)) / 2)
    assert finetune.final == pytest.approx(dict(zip(ATTACKS, [16.5, 54.5, 2.5], strict=True)))
    assert finetune.train_s == 6.5
    assert er.average_std is None
    assert er.forgetting == 0.0
    assert joint.label == "joint"


def test_methods_of_one_name_are_told_apart(tmp_path):
    folders = [
        fake_run(tmp_path / "a"),
        fake_run(tmp_path / "b", recipe="OwnSpeech/detection"),
        fake_run(tmp_path / "c", stream=["x", "y", "z"]),
        fake_run(tmp_path / "d", method_label="ER"),
    ]
    assert [row.label for row in summary_rows(folders)] == [
        f"fine-tune (Embedded/detection; {', '.join(sorted(ATTACKS))})",
        f"fine-tune (OwnSpeech/detection; {', '.join(sorted(ATTACKS))})",
        "fine-tune (Embedded/detection; x, y, z)",
        "ER",
    ]


def test_orders_are_averaged_by_the_name_of_a_task(tmp_path):
    other = [ATTACKS[2], ATTACKS[0], ATTACKS[1]]
    folders = [
        fake_run(tmp_path / "a"),
        fake_run(tmp_path / "b", KEEPS, stream=other),
        fake_run(tmp_path / "c", KEEPS, method="er", method_label="ER"),
    ]
    row, _ = summary_rows(folders)
    assert [order.stream for order in row.orders] == [tuple(ATTACKS), tuple(other)]
    assert [order.matrix.tolist() for order in row.orders] == [FORGETS, KEEPS]
    last, now = FORGETS[-1], KEEPS[-1]
    mean = [(last[0] + now[1]) / 2, (last[1] + now[2]) / 2, (last[2] + now[0]) / 2]
    assert row.final == pytest.approx(dict(zip(ATTACKS, mean, strict=True)))
    page = render(folders, tmp_path)
    assert "Order 2 fine-tune" in page.text
    assert "fine-tune, order 2 average 6.0% " in page.text


def averaging(average):
    """Return a matrix with this average."""
    return [[average] * 3] * 3


def test_plain_fine_tuning_is_the_baseline_wherever_it_stands(tmp_path):
    folders = [
        fake_run(tmp_path / str(k), averaging(10.0 + k), method_label=label)
        for k, label in enumerate(["fine-tuning, lr / 10", "fine-tuning"])
    ]
    slow, plain = summary_rows(folders)
    assert plain.difference is None
    assert (slow.difference.baseline, slow.difference.mean) == ("fine-tuning", -1.0)


def test_differences_are_taken_run_by_run(tmp_path):
    ours, theirs = {1: 12.0, 2: 20.0, 3: 16.0}, {1: 15.0, 2: 25.0, 3: 20.0, 4: 90.0}
    other = ATTACKS[::-1]
    folders = [fake_run(tmp_path / f"t{k}", averaging(v), seed=k) for k, v in theirs.items()]
    folders += [
        fake_run(tmp_path / f"o{k}", averaging(v), seed=k, method="ewc", method_label="EWC")
        for k, v in ours.items()
    ]
    folders.append(
        fake_run(
            tmp_path / "o", averaging(50.0), seed=1, method="ewc", method_label="EWC", stream=other
        )
    )
    finetune, ewc = summary_rows(folders)
    assert finetune.difference is None
    assert ewc.difference.baseline == "fine-tune"
    assert ewc.difference.pairs == 3, "seed 4 and the other order have no partner"
    assert ewc.difference.mean == pytest.approx(-4.0)
    # gaps -3, -5, -4: standard deviation 1, and 4.303 is Student's t of 2 degrees of freedom
    half = 4.303 / 3**0.5
    assert ewc.difference.interval == pytest.approx((-4 - half, -4 + half), abs=1e-3)
    assert finetune.runs_interval is not None
    line = summary_table(folders[4:7] + folders[:1])
    assert "against fine-tune" in line
    assert "-3.0" in line
    assert "−4.0 [−6.5, −1.5]" in render(folders, tmp_path).text


def test_orders_of_a_seed_count_once_in_intervals(tmp_path):
    values = {(1, 0): 10.0, (1, 1): 14.0, (2, 0): 13.0, (2, 1): 15.0, (3, 0): 10.0, (3, 1): 16.0}
    folders = []
    for (seed, order), value in values.items():
        stream = ATTACKS if order == 0 else ATTACKS[::-1]
        for method, extra in (("finetune", 20.0), ("ewc", value)):
            folders.append(
                fake_run(
                    tmp_path / f"{method}{seed}{order}",
                    averaging(extra),
                    seed=seed,
                    stream=stream,
                    method=method,
                    method_label=method,
                    average_interval=[extra - order, extra + 2],
                )
            )
    _, ewc = summary_rows(folders)
    # seed means 12, 14, 13: mean 13, standard deviation 1, three seeds
    half = 4.303 / 3**0.5
    assert ewc.runs_interval == pytest.approx((13 - half, 13 + half), abs=1e-3)
    assert ewc.difference.pairs == 6
    assert ewc.difference.interval == pytest.approx((-7 - half, -7 + half), abs=1e-3)
    assert ewc.interval == pytest.approx((13 - 0.5, 15.0)), "mean over runs of each end"


def test_terminal_table(runs):
    lines = summary_table(runs).splitlines()
    assert lines[0].split() == [
        "method",
        "runs",
        "average",
        *("against", "fine-tune"),
        "forgetting",
        "just",
        "learnt",
        *ATTACKS,
    ]
    assert lines[2].split() == [
        *("fine-tune", "2", "24.5", "±", "2.1", "–", "+28.0", "5.8", "16.5", "54.5", "2.5")
    ]
    assert lines[3].split()[:4] == ["ER", "1", "6.0", "-17.0"]
    assert len({len(line) for line in lines}) == 1


def test_page_shows_what_was_found(runs, tmp_path):
    page = render(runs, tmp_path, title="Three attacks")
    for text in [
        "Three attacks",
        "ER has the best average EER (6.0%) and fine-tune the worst (24.5%)",
        "ER forgets least (+0.0), fine-tune most (+28.0)",
        "Training on all data at once (joint) reaches 6.0%",
        "train 41 bonafide + 1,300 spoof",
        "24.5 ± 2.1",
        "20.0 to 26.0",
        "10,176",
        "216",
        "6.5 s",
        "How to read this",
        "trains on each new task alone",
        "Trade-off between the two errors",
        "python train.py finetune.yaml",
        "4 runs: torch 2.11.0",
    ]:
        assert text in page.text
    assert page.seen.count("polyline") == 3
    assert page.text.count("54.5") == 3  # table, matrix, dots


def test_page_is_self_contained(runs, tmp_path):
    html = render_report(runs, tmp_path / "report.html").read_text()
    assert "http://" not in html
    assert "https://" not in html
    assert "url(#area)" in html
    assert not re.search(r"@import|url\((?!#)", html)
    page = Page(html)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "iframe", "object", "embed", "img"} & {*page.seen}


def test_hostile_names_are_escaped(tmp_path):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    run = fake_run(
        tmp_path / "run",
        method=evil,
        method_label=evil,
        recipe=evil,
        stream=[evil, evil + "_2", evil + "_3"],
        command=evil,
        notes=[evil],
        versions={evil: evil},
        train_sizes=[{evil: 1}] * 3,
        examples=[{"title": evil, "wav": evil}],
    )
    page = render([run], tmp_path, title=evil)
    assert not {"script", "img"} & {*page.seen}
    assert page.text.count(evil) >= 10


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"schema": 1}'])
def test_run_without_valid_results_is_named(tmp_path, content, runs):
    broken = tmp_path / "broken"
    broken.mkdir()
    if content is not None:
        (broken / "results.json").write_text(content)
    for function in (lambda f: render_report(f, tmp_path / "report.html"), summary_table):
        with pytest.raises(ValueError, match="broken") as caught:
            function([*runs, broken])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_runs_and_mixed_metrics_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run folder"):
        render_report([], tmp_path / "report.html")
    folders = [fake_run(tmp_path / "a"), fake_run(tmp_path / "b", metric="cllr")]
    with pytest.raises(ValueError, match="b: its metric is cllr but that of .*a is eer"):
        summary_rows(folders)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row for row in score_rows(ATTACKS) if row["label"] == "spoof"], "needs scores of both"),
        ([{**row, "score": 1.0} for row in score_rows(ATTACKS)], "all scores are equal"),
    ],
)
def test_useless_scores_are_named(tmp_path, rows, message):
    run = fake_run(tmp_path / "run")
    write_scores(run / "scores" / "task_02.csv", rows)
    with pytest.raises(ValueError, match=f"task_02.csv: .*{message}"):
        render([run], tmp_path)


def test_page_without_scores_intervals_or_sizes(tmp_path):
    gap = [[None, None, None], [None, None, None], [9.0, 8.0, 1.0]]
    run = fake_run(
        tmp_path / "run", gap, scores=False, average_interval=None, train_sizes=[{}, {}, {}]
    )
    page = render([run], tmp_path)
    assert "Trade-off" not in page.text
    assert "Whisker" not in page.text
    assert page.text.count("not evaluated") == 6
    assert "nan" not in page.text.lower().split()


def test_scores_where_higher_is_better(tmp_path):
    overlap = [[0.9, 0.5], [0.25, 0.875]]
    options = {"metric": "word_overlap", "higher_is_better": True, "stream": ["a", "b"]}
    folders = [
        fake_run(tmp_path / "x", overlap, scores=False, train_sizes=[{}, {}], **options),
        fake_run(
            *(tmp_path / "y", [[0.9, 0.5], [0.9, 0.9]], False),
            **{**options, "method_label": "ER", "train_sizes": [{}, {}]},
        ),
    ]
    page = render(folders, tmp_path)
    assert "ER has the best average word overlap (0.900)" in page.text
    assert "fine-tune most (+0.650)" in page.text
    html = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r'class="poor" style="--share:100%">0.250', html)
    assert re.search(r'class="good diagonal" style="--share:100%">0.900', html)


def test_accuracy_is_shown_in_percent_and_higher_is_better(tmp_path):
    stream, matrix = ["one_two", "three"], [[90.0, 0.0], [40.0, 80.0]]
    sizes = [{"one": 5, "two": 1200}, {str(k): 10 for k in range(6)}]
    options = {"metric": "accuracy", "higher_is_better": True, "stream": stream}
    options |= {"average_interval": [50.0, 70.0], "train_sizes": sizes, "zero_shot": [0.0, 10.0]}
    folders = [
        fake_run(tmp_path / "x", matrix, scores=False, **options),
        fake_run(
            *(tmp_path / "y", [[90.0, 0.0], [85.0, 75.0]], False),
            **{**options, "method": "er", "method_label": "ER"},
        ),
    ]
    page = render(folders, tmp_path)
    for text in [
        "ER has the best average accuracy (80.0%) and fine-tune the worst (60.0%)",
        "ER forgets least (+5.0), fine-tune most (+50.0)",
        "Higher is better.",
        "Average accuracy after the last task",
        "final accuracy per task, %",
        "share of test items that are put into their own class",
        "in percentage points",
        "positive means that earlier tasks helped",
        "train 5 one + 1,200 two",
        "train 60 of 6 classes",
        "50.0 to 70.0",
    ]:
        assert text in page.text
    assert "EER" not in page.text
    assert "genuine" not in page.text
    html = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r'class="poor" style="--share:20%">40.0', html)
    assert re.search(r'class="good diagonal" style="--share:80%">90.0', html)
    lines = summary_table(folders).splitlines()
    assert lines[2].split()[:3] == ["fine-tune", "1", "60.0"]
    assert lines[3].split()[:7] == ["ER", "1", "80.0", "+20.0", "+5.0", "82.5", "85.0"]


def test_zero_shot_scores_give_forward_transfer(tmp_path):
    page = render([fake_run(tmp_path / "run", zero_shot=[50.0, 50.0, 50.0])], tmp_path)
    assert "before any" in page.text
    assert "−9.0" in page.text  # ((40 - 50) + (42 - 50)) / 2


def test_one_task(tmp_path):
    run = fake_run(tmp_path / "run", [[3.0]], stream=["lpc"], train_sizes=[{"spoof": 2}])
    assert "1 task learnt" in render([run], tmp_path).text


def test_what_was_left_in_training_is_heard_and_seen(tmp_path):
    folder = fake_run(tmp_path / "run")
    for epoch in (1, *range(10, 160, 10)):
        place = folder / "examples" / f"epoch_{epoch:04d}.wav"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, np.zeros(1600), 16000)
        place.with_suffix(".png").write_bytes(b"picture")
    place.with_suffix(".png").unlink()
    page = render_report([folder], tmp_path / "report.html").read_text()
    assert re.findall(r"<figcaption>(.*?)<", page) == [
        f"after epoch {epoch}" for epoch in (1, 30, 60, 90, 120, 150)
    ]
    picture = base64.b64encode(b"picture").decode()
    assert page.count(f'src="data:image/png;base64,{picture}"') == 5, "the last has none"
    assert page.count("<audio") == 6


def test_voices_are_compared_in_decibels(tmp_path):
    page = render([fake_run(tmp_path / "run", metric="mel_db")], tmp_path)
    assert "23.00 dB" in page.text, "the average of the last row"
    assert "0 dB is the recording itself" in page.text


def test_clips_are_short_mono_wav(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000 * 8, 2))
    run = tmp_path / "run"
    run.mkdir()
    soundfile.write(run / "clip.wav", noise, 48_000)
    (run / "broken.wav").write_bytes(b"RIFF")
    titles = ["whole", "broken", "missing"]
    wavs = ["clip.wav", "broken.wav", "none.wav"]
    examples = [{"title": t, "wav": w} for t, w in zip(titles, wavs, strict=True)]
    page = render([fake_run(run, examples=examples)], tmp_path)
    audio = [link for link in page.links if link.startswith("data:audio")]
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(audio[0].split(",")[1])))
    assert len(audio) == 1
    assert (rate_hz, samples.shape) == (16_000, (6 * 16_000,))
    assert page.text.count("This clip could not be read.") == 2


def test_rendering_twice_gives_the_same_page(runs, tmp_path):
    pages = [render_report(runs, tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["a.html", "b.html"]


def test_det_plot_is_small_and_passes_through_the_eer():
    rng = np.random.default_rng(0)
    plot = det_plot([(rng.normal(2, 1, 200_000), rng.normal(0, 1, 200_000))], size=300.0)
    curve = plot.curves[0]
    assert len(curve.points) < 25_000
    points = np.array([point.split(",") for point in curve.points.split()], dtype=float)
    crossing = points[np.argmin(np.abs(points[:, 0] - (300.0 - points[:, 1])))][0]
    ticks = {tick.label: tick.at for tick in plot.ticks}
    assert curve.eer_percent == pytest.approx(15.87, abs=0.2)
    assert ticks["10"] < crossing < ticks["20"]


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(26.0, [0, 5, 10, 15, 20, 25]), (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.03, [0, 0.005])],
)
def test_axis_ticks_are_round(high, ticks):
    assert axis_ticks(high)[: len(ticks)] == pytest.approx(ticks)
