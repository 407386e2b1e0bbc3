"""What a script finds under the name `swarm` where not all is installed."""

import importlib

import pytest

import swarm
from swarm.errors import UsageError


@pytest.mark.parametrize("package", ["safetensors", "torch"])
def test_join_where_learning_is_not_installed_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(_: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(importlib, "import_module", lacking)
    with pytest.raises(UsageError, match=f"couldn't use swarm.join: {package} is not installed") as error:
        swarm.join  # noqa: B018 - to look it up is what fails
    assert error.value.hint == "pip install 'swarm-node[torch]'"
    assert any("swarm-node[torch]" in note for note in error.value.__notes__)
