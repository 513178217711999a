"""The vault: keyed hashes, sealed text, and a key that is never half there or replaced."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repair.errors import EnvironmentProblem, LedgerCorrupted
from repair.vault import Vault


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return Vault(tmp_path_factory.mktemp("home"))


def test_key_is_random_private_and_kept(tmp_path: Path) -> None:
    first = Vault(tmp_path / "one")
    key = tmp_path / "one" / "key"
    assert len(key.read_bytes()) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert Vault(tmp_path / "one").fingerprint == first.fingerprint
    assert Vault(tmp_path / "two").fingerprint != first.fingerprint


@given(text=st.text())
def test_sealed_text_opens_and_does_not_show(vault: Vault, text: str) -> None:
    sealed = vault.seal(text)
    assert vault.open(sealed) == text
    assert sealed != vault.seal(text)
    assert len(text) < 4 or text.encode("utf-8", "surrogatepass") not in sealed


def test_lone_surrogates_survive(vault: Vault) -> None:
    assert vault.open(vault.seal("\ud800 x")) == "\ud800 x"
    assert len(vault.words(["\ud800"])) == 1


def test_tags_are_short_stable_and_blind_to_case_and_spacing(vault: Vault, tmp_path: Path) -> None:
    tag = vault.tag("Mara Voss")
    assert len(tag) == 12
    assert int(tag, 16) >= 0
    assert vault.tag("  mara\n VOSS ") == tag
    assert vault.tag("Mara Vos") != tag
    assert Vault(tmp_path).tag("Mara Voss") != tag


def test_words_keep_order_and_repetition(vault: Vault) -> None:
    words = vault.words(["a", "b", "a"])
    assert words[0] == words[2] != words[1]
    assert vault.words([]) == ()
    assert vault.words(["a"])[0] != vault.tag("a"), "one purpose's hashes must not serve another"


def test_a_missing_key_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(LedgerCorrupted) as caught:
        Vault(tmp_path, create=False)
    assert caught.value.remedy
    assert not (tmp_path / "key").exists()


def test_a_short_key_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(LedgerCorrupted, match="damaged"):
        Vault(tmp_path)
    assert (tmp_path / "key").read_bytes() == b"short"


def test_changed_bytes_and_another_key_do_not_open(vault: Vault, tmp_path: Path) -> None:
    sealed = vault.seal("where she lives")
    for wrong in (sealed[:-4], b"", sealed[:40] + sealed[41:], bytes(reversed(sealed))):
        with pytest.raises(LedgerCorrupted):
            vault.open(wrong)
    with pytest.raises(LedgerCorrupted):
        Vault(tmp_path).open(sealed)


def test_a_home_that_is_a_file_is_the_users_problem_to_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblem) as caught:
        Vault(tmp_path / "file")
    assert caught.value.remedy
