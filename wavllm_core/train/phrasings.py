"""Other words for the published instructions: some to be trained on, some that training never sees."""

from __future__ import annotations

import random

from wavllm_core.tasks import TASKS

SEEN: dict[str, tuple[str, ...]] = {  # by the published instruction, which is the first of its phrasings
    TASKS["asr"].prompt: (
        "Write down what is said in the audio clip.",
        "Transcribe the speech you hear into text.",
        "What are the words that the speaker says?",
        "Please give me a transcript of this recording.",
    ),
    TASKS["st"].prompt: (
        "Say in German what the speaker says.",
        "What would the sentence be in German?",
        "Please give a German translation of the speech.",
        "Turn what you hear into German text.",
    ),
    TASKS["sv"].prompt: (
        "Do you hear one speaker alone?",
        "Is it the same person who talks all the time?",
        "Tell me whether a single voice is heard in this recording.",
        "Does just one person speak here?",
    ),
    TASKS["er"].prompt: (
        "How does the speaker feel?",
        "Which emotion does the voice express?",
        "What mood is the person who talks in?",
        "Name the emotion that you hear in the recording.",
    ),
}
UNSEEN: dict[str, tuple[str, ...]] = {
    TASKS["asr"].prompt: ("Put the spoken words of this recording on paper.", "Please transcribe the audio."),
    TASKS["st"].prompt: ("Please translate the audio into German.", "How does one say this sentence in German?"),
    TASKS["sv"].prompt: ("Is the whole clip spoken by one person?", "Are all the words said by the same speaker?"),
    TASKS["er"].prompt: ("What is the emotional state of this person?", "Describe the emotion in the speaker's voice."),
}


def phrased(instruction: str, rng: random.Random) -> str:
    """An instruction as it is published or in other words; one without other words stays as it is."""
    return rng.choice((instruction, *SEEN.get(instruction, ())))
