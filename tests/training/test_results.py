"""What a run says at its end."""

from dir_jax.training.results import warn_if_worse


def test_a_lower_map_is_told(caplog):
    before = {"mAP": 0.3, "mAP-medium": 0.4, "recall@1": 0.9}
    warn_if_worse(before, {**before, "recall@1": 0.1})
    warn_if_worse({}, {})
    assert not caplog.text
    warn_if_worse(before, {**before, "mAP": 0.31, "mAP-medium": 0.35})
    [record] = caplog.records
    assert "mAP-medium from 0.4000 to 0.3500" in record.getMessage()
    assert "mAP from" not in record.getMessage()
