"""A daemon of each kind dies where it leads, and a host of data: the short set of `make chaos`, by the same table.

What a client may notice, in seconds, is for `make chaos` to say: here others may be using the machine.
"""

import pytest

from verify.chaos.faults import NAMED, SHORT
from verify.chaos.run import run


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_or_done_twice_and_all_comes_back(name, tmp_path):
    found = run(NAMED[name], tmp_path)
    print(found)
    assert found.wrong == {}
    assert found.restored is not None
