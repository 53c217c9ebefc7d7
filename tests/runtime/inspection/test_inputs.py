"""Which files are inspected, and what they are called in the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cloud_files import depth_of, pcd, ply, records, write_intrinsics
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inputs import list_inputs, read_sample
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES, Colour, read_xyz
from cmdiad_runtime.sample import Sample
from helpers import sample_files


@pytest.mark.parametrize(("modality", "suffix"), [("rgb", ".png"), ("xyz", ".tiff")])
def test_folder_of_a_data_set_gives_the_modalitys_own_files(data: Path, modality: str, suffix: str) -> None:
    files = list_inputs([data / "gear" / "test"], modality)  # type: ignore[arg-type]
    assert len(files) == 5
    assert files == sorted(files)
    assert {(f.parent.name, f.suffix) for f in files} == {(modality, suffix)}


def test_plain_folder_is_searched_by_suffix(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.jpeg", "d.ply", "e.txt", "gt/mask.png", "sub/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in list_inputs([tmp_path], "rgb")] == ["a.JPG", "b.png", "c.jpeg", "f.png"]
    assert [p.name for p in list_inputs([tmp_path], "xyz")] == ["d.ply"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder: Path, modality: str) -> list[str]:
    return [str(p.relative_to(folder)) for p in list_inputs([folder], modality)]  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["xyz", "depth"])
def test_own_folder_of_clouds_gives_every_format_and_png_is_depth(tmp_path: Path, folder: str) -> None:
    clouds = [f"good/{folder}/{number}{suffix}" for number, suffix in enumerate(XYZ_SUFFIXES)]
    touch(tmp_path, *clouds, "good/rgb/0.png", "good/gt/0.png", "other.ply")
    touch(tmp_path, f"good/{folder}/intrinsics.json", "intrinsics.json", f"good/{folder}/0.json")
    assert listed(tmp_path, "xyz") == clouds
    assert listed(tmp_path, "rgb") == ["good/rgb/0.png"]
    assert listed(tmp_path, "both") == ["good/rgb/0.png"]


def test_the_working_directory_is_a_folder_of_a_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "depth/0.png")
    monkeypatch.chdir(tmp_path / "depth")
    assert [str(path) for path in list_inputs([Path()], "xyz")] == ["0.png"]
    with pytest.raises(InputError, match="no rgb file"):
        list_inputs([Path()], "rgb")


@pytest.mark.parametrize("replaced", ["0.png", "0.ply"])
@pytest.mark.failure_mode("An image or a cloud that is replaced while the two are read")
def test_pair_of_which_one_file_is_replaced_while_it_is_read_is_refused(tmp_path: Path, replaced: str) -> None:
    """A program that lists files on standard input may write the next part under the same name."""
    touch(tmp_path, "0.png", "0.ply")

    def read_and_replace(name: str, rgb: Path | None, xyz: Path | None, *, colour: Colour = "rgb") -> Sample:
        (tmp_path / replaced).write_bytes(b"of the next part")
        return Sample(name)

    with pytest.raises(InputError, match=f"{replaced}: found a file that changed while") as caught:
        read_sample(tmp_path / "0.png", Preprocessing("both"), read_files=read_and_replace)
    assert caught.value.reason == "unreadable"


def test_clouds_go_before_depth_images_of_the_same_parts(tmp_path: Path) -> None:
    touch(tmp_path, "depth/0.png", "xyz/0.ply")
    assert listed(tmp_path, "xyz") == ["xyz/0.ply"]


def test_plain_folder_holds_images_in_png_and_clouds_in_the_other_formats(tmp_path: Path) -> None:
    single = {*RGB_SUFFIXES, *XYZ_SUFFIXES} - {".tif", ".tiff"}
    touch(tmp_path, *(f"a{suffix}" for suffix in single), "b.NPZ", "a.json", "gt/a.png")
    images = ["a.bmp", "a.j2k", "a.jfif", "a.jp2", "a.jpeg", "a.jpg", "a.png", "a.webp"]
    assert listed(tmp_path, "xyz") == ["a.npz", "a.pcd", "a.ply", "b.NPZ"]
    assert listed(tmp_path, "rgb") == listed(tmp_path, "both") == images


def test_content_of_a_tiff_file_decides(tmp_path: Path) -> None:
    pixels, points = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.float32)
    files: dict[str, np.ndarray] = {"photo": pixels, "grey": pixels[..., 0], "cloud": points, "depth": points[..., 0]}
    for name, array in files.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="rgb" if array.ndim == 3 else None)
    tifffile.imwrite(tmp_path / "either.tif", np.ones((8, 8), np.uint16))
    touch(tmp_path, "damaged.tif", "pair.tif", "pair.png")
    assert listed(tmp_path, "rgb") == ["damaged.tif", "either.tif", "grey.tif", "pair.png", "photo.tif"]
    assert listed(tmp_path, "xyz") == ["cloud.tif", "damaged.tif", "depth.tif", "either.tif", "pair.tif"]


def test_cloud_of_a_tiff_image(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0.1, 0.6, (8, 8, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", (points * 255).astype(np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    (image,) = list_inputs([tmp_path], "both")
    sample = read_sample(image, Preprocessing("both"))
    assert image.suffix == ".tif"
    assert sample.rgb is not None and sample.xyz is not None
    np.testing.assert_array_equal(sample.xyz, points)


def test_folder_of_nothing_but_depth_and_colour_in_png(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "intrinsics.json")
    with pytest.raises(
        InputError, match=r"no xyz file, but .*\.npz\. .* depth images in PNG belong into a folder named depth"
    ):
        list_inputs([tmp_path], "xyz")


def test_named_files_are_taken_as_they_are_in_order(tmp_path: Path) -> None:
    named = [tmp_path / "z.bmp", tmp_path / "missing.png", tmp_path / "a.png"]
    assert list_inputs(named, "rgb") == named


def test_folder_without_a_file_of_the_modality(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(
        InputError, match=r"no xyz file, but files of another format \(1 .png\). Expected files ending in \.tiff, \.tif"
    ) as refused:
        list_inputs([tmp_path], "xyz")
    assert refused.value.subject == str(tmp_path)


def test_sample_of_one_modality_reads_one_file(data: Path) -> None:
    rgb, xyz = (sample_files(data, "test", "good", m)[0] for m in ("rgb", "xyz"))
    camera = read_sample(rgb, Preprocessing("rgb"))
    assert (camera.name, camera.xyz) == (str(rgb), None)
    assert camera.rgb is not None
    assert camera.rgb.dtype == np.uint8
    sensor = read_sample(xyz, Preprocessing("xyz"))
    assert (sensor.name, sensor.rgb) == (str(xyz), None)
    assert sensor.xyz is not None
    assert sensor.xyz.dtype == np.float32


def test_cloud_is_found_where_the_detector_needs_it(data: Path, tmp_path: Path) -> None:
    rgb = sample_files(data, "test", "good", "rgb")[0]
    masked = Preprocessing("rgb", rgb_mask="cloud")
    assert read_sample(rgb, masked).xyz is not None
    beside = tmp_path / "part.png"
    beside.write_bytes(rgb.read_bytes())
    with pytest.raises(InputError, match=r"no cloud .*part\.tiff") as refused:
        read_sample(beside, masked)
    assert refused.value.subject == str(beside)
    (tmp_path / "part.tif").write_bytes(sample_files(data, "test", "good", "xyz")[0].read_bytes())
    assert read_sample(beside, masked).xyz is not None


def test_both_reads_the_image_and_its_cloud(data: Path) -> None:
    rgb, xyz = (sample_files(data, "test", "good", m)[0] for m in ("rgb", "xyz"))
    sample = read_sample(rgb, Preprocessing("both"))
    assert sample.name == str(rgb)
    assert sample.rgb is not None and sample.xyz is not None
    np.testing.assert_array_equal(sample.xyz, read_xyz(xyz))
    assert sample.rgb.shape == sample.xyz.shape


def test_both_needs_both(data: Path, tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    image = tmp_path / "rgb" / "part.png"
    image.write_bytes(sample_files(data, "test", "good", "rgb")[0].read_bytes())
    with pytest.raises(InputError, match=r"no cloud .*xyz/part\.tiff .*the detector looks at both") as refused:
        read_sample(image, Preprocessing("both"))
    assert refused.value.subject == str(image)
    assert "--rgb-mask" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["xyz/7.tiff", "xyz/7.TIF", "xyz/7.ply", "xyz/7.PCD", "xyz/7.npz", "xyz/7.png", "depth/7.png", "7.ply"],
)
def test_cloud_is_found_in_any_format(tmp_path: Path, name: str) -> None:
    points = np.random.default_rng(1).uniform(0.1, 0.4, (12, 17, 3)).astype(np.float32)
    image = tmp_path / ("7.png" if "/" not in name else "rgb/7.png")
    for folder in ("rgb", "xyz", "depth"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((12, 17, 3), np.uint8)).save(image)
    write_intrinsics(tmp_path / "intrinsics.json")
    cloud = tmp_path / name
    match cloud.suffix.lower():
        case ".tiff" | ".tif":
            tifffile.imwrite(cloud, points, photometric="rgb")
        case ".ply":
            cloud.write_bytes(ply({"vertex": records(points)}))
        case ".pcd":
            cloud.write_bytes(pcd(points))
        case ".npz":
            np.savez(cloud, xyz=points)
        case ".png":
            Image.fromarray(depth_of()).save(cloud)
    sample = read_sample(image, Preprocessing("both"))
    assert sample.xyz is not None
    np.testing.assert_array_equal(sample.xyz, read_xyz(cloud))


@pytest.mark.parametrize("settings", [Preprocessing("both"), Preprocessing("rgb", rgb_mask="cloud")])
@pytest.mark.parametrize(
    ("image", "others"),
    [
        ("rgb/1.png", ["xyz/1.tiff", "xyz/1.ply"]),
        ("rgb/1.png", ["xyz/1.ply", "xyz/1.PLY"]),
        ("rgb/1.png", ["depth/1.png", "depth/1.tiff"]),
        ("rgb/1.jpg", ["rgb/1.png", "xyz/1.tiff"]),
        ("1.png", ["1.npz", "1.ply"]),
        ("1.png", ["1.bmp", "1.ply"]),
        ("1.png", ["1.tiff", "1.ply"]),
    ],
)
@pytest.mark.failure_mode("Two images or two clouds of one name in a folder, for a detector that reads both")
def test_second_image_or_cloud_of_the_same_name_is_refused(
    tmp_path: Path, settings: Preprocessing, image: str, others: list[str]
) -> None:
    touch(tmp_path, image, *others)
    with pytest.raises(InputError, match="not known which image and which cloud belong together") as caught:
        read_sample(tmp_path / image, settings)
    assert caught.value.reason == "unsupported"
    assert all(str(tmp_path / name) in str(caught.value) for name in (image, *others))
    assert "Remove the file of another part, or rename it" in str(caught.value)


def test_cloud_and_depth_image_of_the_same_part_are_no_two_clouds(data: Path, tmp_path: Path) -> None:
    """In a data set, the folders `xyz` and `depth` contain the same parts."""
    touch(tmp_path, "rgb/1.png", "xyz/1.tiff", "depth/1.png", "xyz/1.json")
    for modality, name in (("rgb", "rgb/1.png"), ("xyz", "xyz/1.tiff")):
        (tmp_path / name).write_bytes(sample_files(data, "test", "good", modality)[0].read_bytes())
    assert read_sample(tmp_path / "rgb" / "1.png", Preprocessing("both")).xyz is not None


def test_two_names_of_one_file_are_no_two_files(data: Path, tmp_path: Path) -> None:
    """A file system that ignores upper and lower case has each file under several names."""
    for modality, name in (("rgb", "1.png"), ("xyz", "1.tiff")):
        (tmp_path / name).write_bytes(sample_files(data, "test", "good", modality)[0].read_bytes())
        (tmp_path / name.upper()).hardlink_to(tmp_path / name)
    assert read_sample(tmp_path / "1.png", Preprocessing("both")).xyz is not None


def test_absent_image_is_reported_before_other_files_of_its_name(data: Path, tmp_path: Path) -> None:
    touch(tmp_path, "1.bmp", "1.jpg")
    (tmp_path / "1.tiff").write_bytes(sample_files(data, "test", "good", "xyz")[0].read_bytes())
    with pytest.raises(InputError) as caught:
        read_sample(tmp_path / "1.png", Preprocessing("both"))
    assert caught.value.reason == "missing-file"


def test_image_beside_its_cloud_is_not_its_own_depth(tmp_path: Path) -> None:
    Image.fromarray(depth_of()).save(tmp_path / "7.png")
    with pytest.raises(InputError, match="no cloud"):
        read_sample(tmp_path / "7.png", Preprocessing("both"))
