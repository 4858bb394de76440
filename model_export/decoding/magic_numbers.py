"""The bytes that distinguish formats: those at their start, and those at a place of their own.

Images, video, documents, models of three dimensions, scientific data and archives have names here,
whether they are read or not. Programs and fonts have none: they are no images.
"""

from __future__ import annotations

STARTS: dict[bytes, str] = {
    # images
    b"\x89PNG\r\n": "PNG", b"GIF8": "GIF", b"BM": "BMP",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
    b"MM*\x00": "TIFF", b"II\x00*": "TIFF",
    b"\xff\x4f\xff\x51": "JPEG2000", b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x0a": "JPEG XL", b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD", b"DDS ": "DDS", b"\x00\x00\x01\x00": "ICO", b"\x00\x00\x02\x00": "CUR",
    b"qoif": "QOI", b"\x01\xda": "SGI", b"#?RADIANCE": "HDR", b"#?RGBE": "HDR",
    b"Pf\n": "PFM", b"PF\n": "PFM", b"Pf ": "PFM", b"PF ": "PFM", b"P7\n": "PAM",
    b"BLP0": "BLP", b"BLP1": "BLP", b"BLP2": "BLP", b"/* XPM": "XPM", b"! XPM2": "XPM",
    b"icns": "ICNS", b"<svg": "SVG", b"gimp xcf": "XCF", b"\x59\xa6\x6a\x95": "SUN",
    b"v/1\x01": "EXR", b"DanM": "MSP", b"LinS": "MSP", b"\xb1\x68\xde\x3a": "DCX",
    b"#define": "XBM", b"II\xbc\x01": "JPEG XR", b"II\xbc\x00": "JPEG XR", b"BPG\xfb": "BPG",
    b"FLIF": "FLIF", b"AT&TFORM": "DjVu", b"\x97JB2\r\n": "JBIG2", b"PF4\n": "PFM of four channels",
    b"\xd7\xcd\xc6\x9a": "WMF", b"\x01\0\x09\0\0\x03": "WMF", b"\x02\0\x09\0\0\x03": "WMF",
    b"%!PS": "EPS", b"\x04%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"farbfeld": "farbfeld",
    b"\xabKTX 11\xbb": "KTX", b"\xabKTX 20\xbb": "KTX", b"\x13\xab\xa1\x5c": "ASTC",
    b"PKM 10": "PKM", b"PKM 20": "PKM", b"\x8bJNG\r\n": "JNG", b"\x8aMNG\r\n": "MNG",
    b"SDPX": "DPX", b"XPDS": "DPX", b"\x80\x2a\x5f\xd7": "Cineon", b"\xd7\x5f\x2a\x80": "Cineon",
    b"P7 332": "XV thumbnail", b"gd2\x00": "GD2", b"PVR\x03": "PVR", b"\x34\0\0\0": "PVR",
    b"VTF\x00": "VTF", b"PG ML": "PGX", b"PG LM": "PGX", b"\x00\x00\x00\x0cJXS ": "JPEG XS",
    b"FTEX": "FTEX", b"Image type:": "IM", b"\x80\xe8\0\0": "PIXAR", b"PCD_OPA": "Photo CD",
    b"\x53\x80\xf6\x34": "Softimage PIC", b"id=ImageMagick": "MIFF", b"\x52\xcc": "Utah RLE",
    b"\xb6\xa6\xf2\x08": "VIPS", b"\x08\xf2\xa6\xb6": "VIPS", b"srcdocid:": "CALS",
    b"rorient:": "CALS", b"EP*\0": "MDI", b"\x89LFP": "light field (LFP)",
    # of drawing and painting programs
    b"Paint Shop Pro Image File": "Paint Shop Pro", b"CSFCHUNK": "Clip Studio",
    b"SAI-CANVAS": "SAI", b"mdipack": "MediBang", b"PDN3": "Paint.NET", b"\x00\xffKA": "Affinity",
    b"XARA\xa3\xa3": "Xara", b"AC10": "DWG", b"AutoCAD Binary DXF": "DXF", b"#FIG": "Xfig",
    # of science
    b"SIMPLE  =": "FITS", b"SIMPLE=": "FITS", b"XISF0100": "XISF", b"\x89HDF\r\n": "HDF5",
    b"\x0e\x03\x13\x01": "HDF4", b"CDF\x01": "NetCDF", b"CDF\x02": "NetCDF", b"CDF\x05": "NetCDF",
    b"GRIB": "GRIB", b"BUFR": "BUFR", b"ZISRAWFILE": "CZI", b"\xda\xce\xbe\x0a": "ND2",
    b"SIS\0": "VSI (its ETS part)", b"OLYMPUSRAWFORMAT": "OIR", b"II\x97\x01": "TIA (SER)",
    b"LUCAM-RECORDER": "SER video", b"NITF0": "NITF", b"NSIF0": "NITF", b"msid": "MrSID",
    b"EHFA_HEADER_TAG": "ERDAS Imagine", b"NRRD00": "NRRD", b"ObjectType = Image": "MetaImage",
    b"NDims = ": "MetaImage", b"# vtk DataFile": "VTK", b"#INRIMAGE": "INRIMAGE",
    b"!INTERFILE": "Interfile", b"# AmiraMesh": "AmiraMesh", b"# Avizo": "AmiraMesh",
    b"\tics_version": "ICS", b"ics_version": "ICS", b"PDS_VERSION_ID": "PDS", b"CCSD3ZF": "PDS",
    b"LBLSIZE=": "VICAR", b"\0\0\0\0\0\0\0\x04": "McIDAS",
    # camera raw with a start of its own; what is a TIFF is named by `tiff_tags`
    b"FUJIFILMCCD-RAW": "RAF", b"IIRO": "ORF", b"IIRS": "ORF", b"MMOR": "ORF",
    b"IIU\x00": "RW2", b"II\x1a\x00\x00\x00HEAPCCDR": "CRW", b"FOVb": "X3F", b"\x00MRM": "MRW",
    b"NSCRAW": "camera raw of film scanners", b"qktk": "QuickTake", b"qktn": "QuickTake",
    b"ARRI": "ARRIRAW", b"MLVI": "Magic Lantern video", b"CI\x2c\0": "Cine video",
    # video and sound
    b"\x1a\x45\xdf\xa3": "Matroska or WebM video", b"FLV\x01": "FLV video",
    b"\x00\x00\x01\xba": "MPEG video", b"\x00\x00\x01\xb3": "MPEG video",
    b"\x00\x00\x01\xb0": "MPEG video", b"\0\0\0\x01\x67": "H.264 video",
    b"\0\0\0\x01\x40\x01": "H.265 video",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV video", b"OggS": "Ogg", b"ID3": "MP3 sound",
    b"fLaC": "FLAC sound", b"FWS": "Flash", b"CWS": "Flash", b"ZWS": "Flash",
    b".snd": "AU sound", b"MThd": "MIDI", b"#!AMR": "AMR sound", b".RMF": "RealMedia video",
    b"\x06\x0e\x2b\x34": "MXF video", b"DKIF": "IVF video", b"YUV4MPEG2": "Y4M video",
    b"BIKi": "Bink video", b"KB2": "Bink video", b"SMK2": "Smacker video",
    b"SMK4": "Smacker video", b"NSVf": "NSV video", b"\xb7\xd8\x00\x20\x37\x49": "WTV video",
    b"\x1f\x07\0": "DV video",
    # documents
    b"%PDF": "PDF", b"{\\rtf": "RTF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "OLE document (Office, FPX, MIC, Thumbs.db)",
    b"\x06\x06\xed\xf5\xd8\x1d": "InDesign document", b"ITSF": "CHM document",
    b"\xf7\x02\x01\x83": "DVI document", b"\xffWPC": "WordPerfect document",
    # models of three dimensions
    b"glTF": "glTF model", b"ply\n": "PLY model", b"ply\r": "PLY model",
    b"Kaydara FBX": "FBX model", b"BLENDER": "Blender model", b"PXR-USDC": "USD model",
    b"#usda": "USD model", b"#VRML": "VRML model", b"xof 0": "DirectX model", b"OFF\n": "OFF model",
    b"ASTM-E57": "E57 points", b"LASF": "LAS points", b"DRACO": "Draco model",
    b"ISO-10303-21": "STEP model", b"3D Geometry File Format": "Rhino model",
    b"\xff\xfe\xff\x0e": "SketchUp model", b"Ogawa": "Alembic model",
    # archives
    b"MSCF": "CAB archive", b"\x04\x22\x4d\x18": "LZ4", b"LZIP": "lzip", b"!<arch>": "ar archive",
    b"StuffIt": "StuffIt archive", b"SIT!": "StuffIt archive", b"\x1f\x9d": "compress",
    b"\x89LZO": "lzop", b"070701": "cpio archive", b"070702": "cpio archive",
    b"070707": "cpio archive", b"xar!": "xar archive", b"hsqs": "disk image", b"WARC/": "WARC",
    b"PK\x03\x04": "ZIP", b"PK\x05\x06": "ZIP", b"Rar!\x1a\x07": "RAR archive",
    b"7z\xbc\xaf\x27\x1c": "7-Zip archive", b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    # tables and arrays
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"ORC\n": "ORC", b"Obj\x01": "Avro",
    b"SQLite format 3\x00": "SQLite", b"\x93NUMPY": "NumPy array", b"\x0a\x23\xd7\xce": "RecordIO",
    b"MATLAB 5.0 MAT": "MATLAB data",
}  # fmt: skip
# (where, what is there, name): only asked of what no start was found for.
PLACES: tuple[tuple[int, bytes, str], ...] = (
    (2, b"-lh", "LZH archive"), (4, b"RED1", "R3D video"), (4, b"RED2", "R3D video"),
    (4, b"n+2\0", "NIfTI"), (4, b"ni2\0", "NIfTI"), (7, b"**ACE**", "ACE archive"),
    (20, b"GIMP", "GIMP brush"), (20, b"GPAT", "GIMP pattern"), (40, b" EMF", "EMF"),
    (44, b"PVR!", "PVR"), (60, b"BOOKMOBI", "Mobipocket document"), (128, b"DICM", "DICOM"),
    (208, b"MAP \x44", "MRC"), (208, b"MAP \x11", "MRC"), (208, b"MAP \x00", "MRC"),
    (257, b"ustar", "tar archive"), (344, b"n+1\0", "NIfTI"), (344, b"ni1\0", "NIfTI"),
    (522, b"\0\x11\x02\xff", "PICT"), (522, b"\x11\x01", "PICT"), (2048, b"PCD_", "Photo CD"),
    (32769, b"CD001", "disk image"),
)  # fmt: skip
IFF = {b"AIFF": "AIFF sound", b"AIFC": "AIFF sound", b"8SVX": "IFF sound", b"DJVU": "DjVu"}
RIFF = {b"WEBP": "WEBP", b"AVI ": "AVI video", b"WAVE": "WAV sound", b"ACON": "ANI"}
# Of zips: what stands in their first bytes.
ZIPPED = (
    (b"word/", "DOCX"), (b"xl/", "XLSX"), (b"ppt/", "PPTX"),
    (b"mimetypeapplication/vnd.oasis", "OpenDocument"), (b"image/openraster", "OpenRaster"),
    (b"application/x-krita", "Krita"), (b"application/epub+zip", "EPUB"), (b"3D/3dmodel", "3MF"),
    (b"FixedDocSeq", "XPS"), (b"document.json", "Sketch"), (b"Document.archive", "Procreate"),
)  # fmt: skip
