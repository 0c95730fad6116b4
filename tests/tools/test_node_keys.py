"""The administrator of the node that `make cluster-up` starts."""

from pathlib import Path

import yaml

from tools.node.place import Place
from tools.node.supervisor import _keys


def test_each_node_has_a_token_of_its_own_that_no_other_user_can_read(tmp_path: Path) -> None:
    tokens = []
    for name in ("one", "two"):
        place = Place(tmp_path / name)
        place.run.mkdir(parents=True)
        _keys(place, 6443)
        config = yaml.safe_load(place.kubeconfig.read_text())
        tokens.append(config["users"][0]["user"]["token"])
        assert place.admin_token == tokens[-1]
        assert len(tokens[-1]) >= 32
        assert place.keys.stat().st_mode & 0o077 == 0
        assert place.kubeconfig.stat().st_mode & 0o077 == 0
    assert tokens[0] != tokens[1]
