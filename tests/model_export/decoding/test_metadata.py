"""What a file says of its camera, time and place."""

from PIL import Image
from samples import photo
from seen import decode, encode


def test_what_the_camera_wrote():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "Maker", "Model 3", "2020:01:02 03:04:05"
    exif.get_ifd(0x8825).update({1: "S", 2: (10.0, 30.0, 0.0), 3: "W", 4: (20.0, 15.0, 36.0)})
    data = encode(photo(1), "JPEG", exif=exif)
    _, info = decode(data)
    assert (info.taken_at, info.camera) == ("2020:01:02 03:04:05", "Maker Model 3")
    assert info.latitude is None and info.longitude is None
    _, info = decode(data, gps=True)
    assert (info.latitude, info.longitude) == (-10.5, -20.26)
