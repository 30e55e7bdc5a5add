"""What cameras may send, and the GStreamer elements that unpack and decode it, by name: `pipeline.camera` makes them."""

UNPACK = {"H264": "rtph264depay", "H265": "rtph265depay", "JPEG": "rtpjpegdepay"}  # by RTP's name of the codec
PARSE = {"video/x-h264": "h264parse", "video/x-h265": "h265parse"}  # by GStreamer's name of it, as all below
HARDWARE = {  # best first; GStreamer has NVDEC's and VA-API's only where the device is
    "video/x-h264": ("nvh264dec", "vah264dec"),
    "video/x-h265": ("nvh265dec", "vah265dec"),
}
SOFTWARE = {
    "video/x-h264": ("avdec_h264", "openh264dec"),
    "video/x-h265": ("avdec_h265", "libde265dec"),
    "image/jpeg": ("jpegdec", "avdec_mjpeg"),
}


def unsupported(codec: str) -> str:
    """What people are told of any other."""
    return f"the camera sends {codec}, which cannot be read here: set it to H.264, H.265 or Motion JPEG"
