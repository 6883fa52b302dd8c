from __future__ import annotations

import pytest

from tests.support import tools


def test_tools_that_are_here_let_a_test_go_on() -> None:
    tools.need("sh", "cat")


def test_a_missing_tool_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("VMFERRY_REQUIRE_TOOLS", raising=False)
    monkeypatch.setitem(tools.PACKAGES, "no-such-tool", "its-package")
    with pytest.raises(pytest.skip.Exception, match=r"^no-such-tool not found; sudo apt-get install .*its-package$"):
        tools.need("sh", "no-such-tool")


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("VMFERRY_REQUIRE_TOOLS", "1")])
def test_where_tools_are_required_a_missing_one_fails(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(pytest.fail.Exception, match="no-such-tool"):
        tools.need("no-such-tool")
