import pytest

pytest.register_assert_rewrite("support.renderer_contract")
