"""A page of the server that a module calls `site`, in its `browser`."""

import pytest
from pages import page_driver


@pytest.fixture
def page(browser, site):
    with page_driver.Page(browser, site) as page:
        yield page
        assert page.errors == []
