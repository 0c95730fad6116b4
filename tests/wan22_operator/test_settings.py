"""The operator's environment."""

import pytest
from wan22_operator.settings import Settings

from app.config import ConfigError


def test_empty_variables_count_as_unset() -> None:
    assert Settings.read({"WATCH_NAMESPACE": "", "RESYNC_SECONDS": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"), [("LEASE_SECONDS", "1"), ("WEBHOOK_PORT", "0"), ("WEBHOOK_ENABLED", "perhaps")]
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name.lower()):
        Settings.read({name: value})
