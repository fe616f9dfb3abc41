"""The policy for the embedded model that is in the package."""


def test_the_embedded_models_policy_is_in_the_package_and_used_where_none_was_learned(tmp_path, monkeypatch):
    from lede.paths import default_policy_path, usual_policy
    from lede.policy import load_policy

    monkeypatch.chdir(tmp_path)
    assert usual_policy(None) == usual_policy("lede-tiny") == default_policy_path()
    assert load_policy(default_policy_path()).info["model"]["name"] == "lede-tiny"
    assert usual_policy("somebody/else") is None
    (tmp_path / "policies" / "lede-tiny").mkdir(parents=True)
    assert usual_policy(None).resolve() == tmp_path / "policies" / "lede-tiny"
