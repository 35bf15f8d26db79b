"""What a run writes, and the names of its files."""

METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"  # the last good checkpoint before the newest one
ENCODER = "encoder.safetensors"
EVALUATION = "evaluation.json"
FIGURE = "localisation.png"
MATCHES = "matches.png"
CARD = "MODEL_CARD.md"
WRITTEN = (METRICS, CHECKPOINT, PREVIOUS, ENCODER, EVALUATION, FIGURE, MATCHES, CARD)  # all of them
