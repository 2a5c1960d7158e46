"""What an operator sets, and what is made when nothing is."""

import re
import stat

import pytest
from pydantic import ValidationError

from serving.settings import Settings

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_credentials_are_made_once(tmp_path):
    """Long, random, readable by their owner only, and the same at the next start."""
    first = Settings(state_dir=tmp_path / "state").resolved()
    assert re.fullmatch("[0-9a-f]{32}", first.account_id)
    assert len(first.api_token) == 40
    assert first == Settings(state_dir=tmp_path / "state").resolved()
    file = tmp_path / "state" / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_environment_comes_first(tmp_path, monkeypatch):
    """Nothing is written when both are set; one of them leaves the other to be made."""
    monkeypatch.setenv("ACCOUNT_ID", ACCOUNT)
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PORT", "8123")
    settings = Settings(state_dir=tmp_path / "state").resolved()
    assert (settings.account_id, settings.api_token, settings.port) == (ACCOUNT, "secret", 8123)
    assert not (tmp_path / "state").exists()
    monkeypatch.delenv("API_TOKEN")
    half = Settings(state_dir=tmp_path / "state").resolved()
    assert half.account_id == ACCOUNT
    assert len(half.api_token) == 40


def test_loopback_unless_told_otherwise():
    """An open server is a decision."""
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "0"), ("PORT", "x"), ("ACCOUNT_ID", "me"), ("API_TOKEN", "a b"), ("REPLICAS", "0")],
)
def test_mistakes_are_errors(monkeypatch, name, value):
    """That name the setting."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1", "true"), ("True", "true"), ("on", "true"), ("0", "false"), ("A" * 32, "a" * 32)],
)
def test_the_licence_gate_is_written_as_other_switches_are(
    monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv("LICENCE_GATE", written)
    assert Settings().licence_gate == meant
