"""Clips and NIfTI: every frame in its place."""

import numpy as np
import pytest

from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.scans import clip, nifti

SIDE, COUNT = 64, 12


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "mpeg4"), ("avi", "mjpeg")])
def test_frames_of_a_clip_come_in_their_places(tmp_path, suffix, codec):
    av = pytest.importorskip("av", reason="pip install 'ufm-jax[medical]'")
    file = tmp_path / f"clip.{suffix}"
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(COUNT):
            pixels = np.full((SIDE, SIDE, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert clip.read_timing(file) == (COUNT, pytest.approx(100))
    found = [frame.samples for frame in clip.read_frames(file, [0, 5, 11])]
    assert [pixels.shape for pixels in found] == [(SIDE, SIDE, 3)] * 3
    np.testing.assert_allclose([pixels.mean() for pixels in found], [0, 100, 220], atol=4)
    with pytest.raises(CorruptImage, match="ends before frame 13"):
        list(clip.read_frames(file, [12]))


def test_what_is_no_clip_is_a_fault(tmp_path):
    pytest.importorskip("av", reason="pip install 'ufm-jax[medical]'")
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    for read in (clip.read_timing, lambda file: list(clip.read_frames(file, [0]))):
        with pytest.raises(CorruptImage, match="does not decode as a clip"):
            read(tmp_path / "clip.mp4")


def test_slices_of_volumes_and_series_are_pictures_of_columns_by_rows(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'ufm-jax[medical]'")
    rng = np.random.default_rng(0)
    volume = rng.integers(-100, 1000, (5, 7, 3, 2)).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([0.2, 0.2, 1, 1]))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "x.nii.gz")
    slices, mm = nifti.read_shape(tmp_path / "x.nii.gz")
    assert (slices, mm) == (6, pytest.approx(0.2))
    second, last = nifti.read_frames(tmp_path / "x.nii.gz", [1, 5])
    np.testing.assert_array_equal(second.samples[..., 0], volume[:, :, 1, 0].T)
    np.testing.assert_array_equal(last.samples[..., 0], volume[:, :, 2, 1].T)
    assert second.range == last.range == (volume.min(), volume.max())


def test_a_picture_of_bytes_keeps_its_levels(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'ufm-jax[medical]'")
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    nibabel.save(nibabel.Nifti1Image(pixels.T, np.diag([0.1, 0.3, 1, 1])), tmp_path / "x.nii")
    assert nifti.read_shape(tmp_path / "x.nii") == (1, None)  # Not square, and no unit.
    (frame,) = nifti.read_frames(tmp_path / "x.nii", [0])
    np.testing.assert_array_equal(frame.samples[..., 0], pixels)
    (tmp_path / "y.nii").write_bytes(b"no NIfTI")
    with pytest.raises(CorruptImage, match="does not decode as NIfTI"):
        nifti.read_shape(tmp_path / "y.nii")
