"""Reproduction cards: claims written down before their runs, and what the runs say about them."""

from mlbench.report.cards.claims import Card, Claim, Setting, load_card
from mlbench.report.cards.judge import Outcome, judge, runs_of, verdict_of
from mlbench.report.cards.printed import published_gains
from mlbench.report.cards.text import cards_text, order_agreement, outcomes_of, records_for

__all__ = [
    "Card",
    "Claim",
    "Outcome",
    "Setting",
    "cards_text",
    "judge",
    "load_card",
    "order_agreement",
    "outcomes_of",
    "published_gains",
    "records_for",
    "runs_of",
    "verdict_of",
]
