"""The plots of a dev split's page."""

from __future__ import annotations

from pathlib import Path

from wavllm_core.evaluate.metrics import error_rates, share
from wavllm_core.evaluate.plots import bar_chart, confusion_chart, det_chart, line_chart
from wavllm_core.evaluate.speakers import confusions
from wavllm_core.evaluate.tasks import NOISY, SNRS_DB, Answers, age_figures
from wavllm_core.evaluate.voices import has_pairs, pairs


def draw(answers: Answers, folder: Path) -> dict[str, Path]:
    """A plot of all that is more than one number, by title; what was not asked is not drawn."""
    plots: dict[str, Path] = {}

    def add(title: str, name: str) -> tuple[Path, str]:
        plots[title] = folder / f"{name}.svg"
        return plots[title], title

    kinds = dict.fromkeys(kind for _, kind, _ in answers.noisy_orders)
    if kinds:
        lines = {
            f"{kind} noise": [
                (snr_db, share(right for at, of, right in answers.noisy_orders if (at, of) == (snr_db, kind)).percent)
                for snr_db in SNRS_DB
            ]
            for kind in kinds
        }
        line_chart(*add(NOISY, "orders-in-noise"), ("speech to noise, dB", "%"), lines)
    if rates := age_figures(answers.said.get("so762", [])):
        title = "read sentences, word error rate by age"
        bars = {name.removeprefix("read sentences, ").removesuffix(", WER %"): rate for name, rate in rates.items()}
        bar_chart(*add(title, "wer-by-age"), "%", bars)
    if has_pairs(answers.voices):
        curves = {"clean": pairs(answers.voices)}
        if answers.noisy_voices:
            curves["one clip in noise"] = pairs(answers.voices, answers.noisy_voices)
        det_chart(
            *add("same speaker or not, detection error trade-off", "det"),
            {name: error_rates(*scored)[:2] for name, scored in curves.items()},
        )
    if answers.emotions:
        confusion_chart(*add("emotions", "emotions"), confusions(answers.emotions))
    if answers.gates:
        bar_chart(*add("gate by instruction, mean of its channels", "gates"), "gate", answers.gates)
    return plots
