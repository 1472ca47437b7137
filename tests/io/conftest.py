"""The hook that reads `StorageContract.lacks`."""

import pytest

for _module in ("files", "streams", "versions", "moves", "races", "sources"):
    pytest.register_assert_rewrite(f"tests.io.contract_{_module}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        lacks = getattr(item.cls, "lacks", {})
        unknown = [name for name in lacks if not hasattr(item.cls, name)]
        if unknown:
            raise pytest.UsageError(f"{item.cls} lacks tests that do not exist: {unknown}")
        if item.originalname in lacks:
            item.add_marker(pytest.mark.xfail(reason=lacks[item.originalname], strict=True))
