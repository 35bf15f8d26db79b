"""What a run writes, and the names of its files."""

METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"  # the last good checkpoint before the newest one
ENCODER = "encoder.safetensors"
EVALUATION = "evaluation.json"
FIGURE = "localisation.png"
MATCHES = "matches.png"
CARD = "MODEL_CARD.md"
FINDINGS = (EVALUATION, FIGURE, MATCHES, CARD)  # what is said of a run that is done
WRITTEN = (METRICS, CHECKPOINT, PREVIOUS, ENCODER, *FINDINGS)  # all of them
