"""Tests of one xdist group run on one worker: what they share is started once."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("deploy")
def test_a_test_is_handed_out_with_its_group(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("only with --dist loadgroup")
    assert request.node.nodeid.endswith("@deploy")
