"""Unknown keys, wrong types and values out of range are refused, by name."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from fusion_alpha import config
from fusion_alpha.errors import InputError


def test_overrides_by_hand():
    cfg = config.load(["train.epochs=3", "tickers=[TSLA,AAPL]", "start=2016-01-04", "data.lab.delta=0"])
    assert (cfg.train.epochs, cfg.tickers, cfg.start, cfg.data.lab.delta) == (3, ["TSLA", "AAPL"], "2016-01-04", 0.0)


def test_a_configuration_is_changed_as_by_hand_and_stays_as_it_was():
    cfg = config.load(["train.lr=0.5"])
    other = config.changed(cfg, ["model=concat", "model.dropout=0.1", "data.lab.seed=9"])
    assert (other.model.name, other.model.dropout, other.data.lab.seed, other.train.lr) == ("concat", 0.1, 9, 0.5)
    assert config.changed(cfg, []) == cfg == config.load(["train.lr=0.5"])
    with pytest.raises(InputError, match=r"train\.lrr"):
        config.changed(cfg, ["train.lrr=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epocs=3", "unknown parameter 'train.epocs'.*did you mean train.epochs"),
        ("data.lab=3", r"data\.lab = 3.*a block of data\.lab\.\*"),
        ("train.epochs=abc", "train.epochs = 'abc'.*a whole number.*make params"),
        ("train.lr=fast", "train.lr = 'fast'.*a number"),
        ("tickers=TSLA", r"tickers = 'TSLA'.*a list, as \[TSLA,AAPL\]"),
        ("text.max_tokens=null", "text.max_tokens = None.*a whole number"),
        ("train.epochs=0", "train.epochs = 0.*at least 1"),
        ("train.epochs", "overrides look like"),
        ("interval=1h", "interval = '1h'.*minutes as 1m"),
        ("start=2015", "start = '2015'.*YYYY-MM-DD"),
        ("start=2015-02-30", "start"),
        ("predict.mc_samples=3", "even"),
        ("data.dev_start=2030-01-01", "ascending"),
        ("data.source=nyse", "one of lab, stocknet, csv, yahoo"),
        ("model.dropout=1", r"in \[0, 1\)"),
        ("recovery.planted.delta=-0.3", r"recovery\.planted\.delta = -0\.3.*positive"),
        ("recovery.reversed.variants=[text_only]", "fused among them"),
        ("recovery.dev_sessions=504", "ascending"),
        ("recovery.null_market.seeds=1", "at least 2"),
        ("model.sticky_p=1", r"model\.sticky_p = 1.*in \[0, 1\)"),
        ("model.sticky_rho=1.1", r"model\.sticky_rho = 1\.1.*in \[0, 1\]"),
        ("train.augment_bridge=-1", r"train\.augment_bridge = -1.*at least 0"),
    ],
)
def test_bad_override_is_refused_with_its_name_and_rule(override, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        config.load([override])


def test_unknown_and_missing_keys_in_the_file_are_refused(tmp_path):
    params = tmp_path / "params.yaml"
    plain = OmegaConf.load("params.yaml")
    plain.train.epocs = 3
    OmegaConf.save(plain, params)
    with pytest.raises(InputError, match=r"(?s)unknown parameter 'train\.epocs'.*did you mean train\.epochs"):
        config.load(params=params)
    del plain.train["epocs"], plain.train["epochs"]
    OmegaConf.save(plain, params)
    with pytest.raises(InputError, match=r"missing parameter 'train\.epochs'"):
        config.load(params=params)
    with pytest.raises(InputError, match="no such file"):
        config.load(params=tmp_path / "absent.yaml")
    params.write_text("train:\n  lr: [1\n")
    with pytest.raises(InputError, match=r"(?s)line 3: not YAML.*make params"):
        config.load(params=params)


def test_a_source_can_select_its_target_and_the_user_can_override_it(tmp_path):
    params = tmp_path / "params.yaml"
    config.compose(params, ["data=stocknet"])
    assert config.load(params=params).target.session_rule == "utc_date"
    config.compose(params, ["data=stocknet", "target=next_open"])
    assert config.load(params=params).target.session_rule == "cutoff"


def test_what_a_source_reads_outside_the_repository_is_watched(tmp_path):
    ingest = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["ingest"]
    assert "${data.watched}" in ingest["deps"]
    params = tmp_path / "params.yaml"
    config.compose(params, ["data=csv", "data.csv.folder=/home/me/mine"])
    assert config.load(params=params).data.watched == "/home/me/mine"
    for choice in ("lab", "lab_1m", "stocknet", "yahoo"):
        config.compose(params, [f"data={choice}"])
        assert Path(config.load(params=params).data.watched).is_file()


def test_leaves_are_dotted_names():
    cfg = config.load()
    assert {"interval", "train.lr", "data.lab.seed"} <= set(config.leaves(cfg))
