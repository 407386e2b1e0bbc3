"""Audits in this process: hooks that a worker has put on optimizers end with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.optim.optimizer as hooks


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    before = (dict(hooks._global_optimizer_pre_hooks), dict(hooks._global_optimizer_post_hooks))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for table, kept in zip(
        (hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks), before, strict=True
    ):
        table.clear()
        table.update(kept)
