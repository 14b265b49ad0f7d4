"""Ages beside dates."""

from __future__ import annotations

import pytest

from cfstools.render.ages import age, dated

NOW = 1_750_000_000.0  # 2025-06-15T15:06:40Z


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (0.9, "now"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86_400, "1 day ago"),
        (14 * 86_400, "2 weeks ago"),
        (60 * 86_400, "1 month ago"),
        (3 * 365.25 * 86_400, "3 years ago"),
        (-3700, "in 1 hour"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2025-06-01T15:06:40Z", "2025-06-01 (2 weeks ago)"),
        ("2025-06-15T15:06:39.123456789Z", "2025-06-15 (now)"),
        ("2025-06-15T15:06:38.9+00:00", "2025-06-15 (1 second ago)"),
        ("2025-06-15T17:06:40+02:00", "2025-06-15 (now)"),
        ("2025-06-15T14:06:40", "2025-06-15 (1 hour ago)"),
        ("1970-01-01T00:00:00Z", "1970-01-01 (55 years ago)"),
        ("", "-"),
        ("yesterday", "-"),
        ("2025-13-40T00:00:00Z", "-"),
        ("\x1b[2J", "-"),
    ],
)
def test_dates(text: str, shown: str) -> None:
    assert dated(text, NOW) == shown
