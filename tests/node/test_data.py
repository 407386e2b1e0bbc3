"""Packaged data: unequal hospitals, and held-out patients nobody trains on."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.data import HEART_COLUMNS, SiteData, write_breast_cancer, write_heart_disease, write_mnist
from swarm.errors import UsageError

HEART = Path(__file__).resolve().parents[3] / "shared" / "data" / "heart_disease"


def rows(path: Path) -> NDArray[np.float64]:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def patients(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[SiteData]:
    return write_breast_cancer(tmp_path_factory.mktemp("breast"), seed=7)


def test_hospitals_differ_twentyfold_in_size(hospitals: list[SiteData]) -> None:
    sizes = {site.name: site.rows for site in hospitals}
    # Healthy patients can run out, and the smallest hospital is the last to be served.
    assert sizes == {"university": 200, "cancer-centre": 110, "city": 85, "county": 50, "rural": 8}
    assert 15 <= max(sizes.values()) / min(sizes.values()) <= 25


def test_hospitals_differ_in_case_mix_and_each_has_both_kinds(hospitals: list[SiteData]) -> None:
    shares = {site.name: site.positives / site.rows for site in hospitals}
    assert shares["cancer-centre"] > 2 * shares["university"] > 3 * shares["county"]
    assert all(0 < site.positives < site.rows for site in hospitals)


def test_what_is_summarised_is_what_is_written(hospitals: list[SiteData]) -> None:
    for site in hospitals:
        train, test = rows(site.folder / "train.csv"), rows(site.folder / "test.csv")
        assert train.shape == (site.rows, 31)
        assert test.shape == (site.held_out, 31)
        assert train[:, -1].sum() == site.positives
        assert (site.folder / "train.csv").read_text().splitlines()[0].endswith(",malignant")


def test_held_out_patients_are_the_same_everywhere_and_never_trained_on(hospitals: list[SiteData]) -> None:
    [held_out] = {(site.folder / "test.csv").read_text() for site in hospitals}
    trained = [patient for site in hospitals for patient in patients(site.folder / "train.csv")]
    assert len(held_out.splitlines()) - 1 == 113
    assert not {*trained} & {*held_out.splitlines()}
    # No patient is at two hospitals either.
    assert len({*trained}) == len(trained) == 453


def test_the_pooled_folder_holds_everybody_and_the_same_held_out_patients(hospitals: list[SiteData]) -> None:
    pooled = hospitals[0].folder.parent / "pooled"
    trained = [patient for site in hospitals for patient in patients(site.folder / "train.csv")]
    assert patients(pooled / "train.csv") == trained
    assert (pooled / "test.csv").read_bytes() == (hospitals[0].folder / "test.csv").read_bytes()


def test_malignant_counts_as_positive(hospitals: list[SiteData]) -> None:
    # 212 of the 569 tumours of the data set are malignant; they are the larger ones (column 0 is the mean radius).
    pooled = hospitals[0].folder.parent / "pooled"
    train, test = rows(pooled / "train.csv"), rows(pooled / "test.csv")
    everyone = np.concatenate([train, test])
    assert abs(everyone[:, -1].mean() - 212 / 569) < 0.01
    assert everyone[everyone[:, -1] == 1, 0].mean() > everyone[everyone[:, -1] == 0, 0].mean() + 4


def test_the_division_follows_from_the_seed(hospitals: list[SiteData], tmp_path: Path) -> None:
    for seed, same in ((7, True), (8, False)):
        again = write_breast_cancer(tmp_path / str(seed), seed)
        for one, other in zip(hospitals, again, strict=True):
            equal = (one.folder / "train.csv").read_bytes() == (other.folder / "train.csv").read_bytes()
            assert equal == same


# --- heart disease --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteData]:
    if not HEART.is_dir():
        pytest.skip(f"the UCI Heart Disease files are not at {HEART}")
    made = write_heart_disease(HEART, tmp_path_factory.mktemp("heart"))
    return {site.name: site for site in made}


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("cleveland", 199, 104), ("hungarian", 172, 89), ("switzerland", 30, 16), ("va", 85, 45)],
)
def test_clinics_have_the_sizes_of_flamby(clinics: dict[str, SiteData], name: str, train: int, test: int) -> None:
    # Ogier du Terrail et al. 2022, Fed-Heart-Disease, table of client sizes.
    site = clinics[name]
    assert (site.rows, site.held_out) == (train, test)
    assert rows(site.folder / "train.csv").shape == (train, 14)
    assert rows(site.folder / "test.csv").shape == (test, 14)


def test_switzerland_trains_on_one_class_only(clinics: dict[str, SiteData]) -> None:
    assert clinics["switzerland"].positives == clinics["switzerland"].rows == 30
    assert all(0 < site.positives < site.rows for name, site in clinics.items() if name != "switzerland")


def test_the_features_are_thirteen_and_clean(clinics: dict[str, SiteData]) -> None:
    names = HEART_COLUMNS.split(",")
    assert len(names) == 14
    for site in clinics.values():
        everyone = np.concatenate([rows(site.folder / "train.csv"), rows(site.folder / "test.csv")])
        columns = dict(zip(names, everyone.T, strict=True))
        assert np.isfinite(everyone).all()
        for name in ("sex", "sugar", "angina", "cp2", "cp3", "cp4", "ecg1", "ecg2", "disease"):
            assert {*np.unique(columns[name])} <= {0.0, 1.0}, name
        # A chest pain is of one kind, an ECG of one kind.
        assert (columns["cp2"] + columns["cp3"] + columns["cp4"]).max() <= 1
        assert (columns["ecg1"] + columns["ecg2"]).max() <= 1
        assert 25 < columns["age"].min() <= columns["age"].max() < 80


def test_pooled_clinics_hold_everybody(clinics: dict[str, SiteData]) -> None:
    pooled = clinics["va"].folder.parent / "pooled"
    assert len(patients(pooled / "train.csv")) == 199 + 172 + 30 + 85
    assert len(patients(pooled / "test.csv")) == 104 + 89 + 16 + 45


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"couldn't find .*processed\.cleveland\.data") as caught:
        write_heart_disease(tmp_path, tmp_path / "out")
    assert "processed.*.data" in caught.value.hint


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_divided_without_loss_or_overlap(tmp_path: Path) -> None:
    digits = np.arange(100, dtype=np.uint8)
    x = np.repeat(digits, 4).reshape(100, 2, 2)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=digits % 10, x_test=x[:5], y_test=digits[:5])
    sites = write_mnist(tmp_path / "mnist.npz", tmp_path / "out", sites=3, seed=1)
    assert [site.rows for site in sites] == [34, 33, 33]
    shards = [np.load(site.folder / "train.npz") for site in sites]
    everything = np.concatenate([shard["x"][:, 0, 0] for shard in shards])
    assert sorted(everything) == list(digits)
    assert list(everything) != list(digits)
    for site, shard in zip(sites, shards, strict=True):
        assert (shard["y"] == shard["x"][:, 0, 0] % 10).all()
        assert shard["y"].dtype == np.int64
        test = np.load(site.folder / "test.npz")
        assert (len(test["y"]), site.held_out) == (5, 5)
        test.close()
        shard.close()


def test_missing_digits_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"couldn't find .*mnist\.npz"):
        write_mnist(tmp_path / "mnist.npz", tmp_path, sites=2, seed=0)


def digits(**more: object) -> dict[str, object]:
    few = np.arange(6, dtype=np.uint8)
    x = np.repeat(few, 4).reshape(6, 2, 2)
    return {"x_train": x, "y_train": few, "x_test": x, "y_test": few, **more}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no archive of arrays"),
        (b"x,y\n1,2\n", "no archive of arrays"),
        (b"PK\x03\x04 half of a download", "no archive of arrays"),
        ({"x_train": digits()["x_train"], "y_train": digits()["y_train"]}, "it has no array x_test"),
        (digits(y_train=np.arange(5)), r"x_train has the shape \(6, 2, 2\), and y_train \(5,\)"),
        (digits(y_test=np.zeros(6)), r"y_test \(6,\) of float64"),
        (digits(y_train=np.zeros((6, 10), dtype=int)), "and y_train"),
        (digits(x_train=np.zeros((0, 2, 2)), y_train=np.zeros(0, dtype=int)), "and y_train"),
        (digits(y_train=np.array([{}] * 6, dtype=object)), "no archive of arrays"),
    ],
)
def test_what_are_no_digits_is_said_in_a_sentence_and_nothing_is_written(
    tmp_path: Path, content: bytes | dict[str, object], why: str
) -> None:
    source = tmp_path / "mnist.npz"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        np.savez(source, **content)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"couldn't read .*mnist.npz: .*{why}"):
        write_mnist(source, tmp_path / "out", sites=2, seed=0)
    assert not (tmp_path / "out").exists()


def test_a_single_array_in_place_of_an_archive_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "mnist.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UsageError, match="no archive of arrays"):
        write_mnist(tmp_path / "mnist.npz", tmp_path / "out", sites=2, seed=0)


@pytest.mark.parametrize("sites", [-1, 0, 7])
def test_more_sites_than_digits_or_none_are_refused(tmp_path: Path, sites: int) -> None:
    np.savez(tmp_path / "mnist.npz", **digits())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"couldn't divide 6 digits among {sites} sites"):
        write_mnist(tmp_path / "mnist.npz", tmp_path / "out", sites=sites, seed=0)
